"""Webhooks: what is written down with an event arrives, signed, whatever dies or does not answer in between."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from symadj.service import webhooks
from symadj.service.contract.notices import Notice
from symadj.service.contract.states import JobState
from symadj.service.dispatcher.notifying import LEASE, Notifier
from symadj.service.errors import ConflictError, InvalidParameterError
from symadj.service.hosts import AllowedHosts
from symadj.service.lifecycle import requests
from symadj.service.settings import Settings
from symadj.service.store import Database, jobs
from symadj.service.store import webhooks as stored
from symadj.service.store.tables import Webhook, WebhookDelivery
from tests.house.written import ROOT
from tests.service.lives import ask, event_names, submit

PATIENCE_SECONDS = 60
LOOPBACK = AllowedHosts.parse("127.0.0.1")


@dataclass
class Request:
    """What a receiver was sent."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def type(self) -> str:
        kind: str = json.loads(self.body)["type"]
        return kind


@dataclass
class Receiver:
    """A real server, which answers with ``statuses`` in turn, and with 204 after them."""

    url: str
    statuses: list[int] = field(default_factory=list)
    # Closed, it does not answer.
    open: threading.Event = field(default_factory=threading.Event)
    received: queue.Queue[Request] = field(default_factory=queue.Queue)

    def next(self) -> Request:
        return self.received.get(timeout=PATIENCE_SECONDS)


@contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            made.received.put(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            made.open.wait(PATIENCE_SECONDS)
            self.send_response(made.statuses.pop(0) if made.statuses else 204)
            self.send_header("Location", f"{made.url}elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Receiver(f"http://127.0.0.1:{server.server_port}/")
    made.open.set()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.open.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def receives() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


def make(database: Database, url: str, *events: Notice, **options: Any) -> Webhook:
    """Register a webhook of ada's."""
    values = {"owner": "ada", "labels": {}, "all_owners": False, "allowed": LOOPBACK} | options
    with database.session() as session:
        return webhooks.create(session, url=url, events=list(events or Notice), **values)


@contextmanager
def notifying(database: Database, **settings: Any) -> Iterator[None]:
    """Send what is due until the block ends."""
    values = {"webhook_hosts": "127.0.0.1", "poll_seconds": 0.02, "webhook_retry_seconds": 0.01} | settings
    notifier = Notifier(database, Settings(**values))
    notifier.start()
    yield
    notifier.stop()


def deliveries(database: Database, webhook: Webhook) -> list[WebhookDelivery]:
    """Return what a webhook was told, the first one first."""
    with database.read_session() as session:
        page = stored.page_of_deliveries(session, webhook.id, state=None, limit=100, after=None)
    return list(reversed(page.items))


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read(database: Database, webhook: Webhook) -> Webhook:
    with database.read_session() as session:
        return stored.get(session, webhook.id, owner=None)


def test_every_state_of_a_job_can_be_asked_for() -> None:
    assert {state.value for state in JobState} <= {notice.value for notice in Notice}


def test_a_new_state_arrives_with_its_job_and_a_signature_that_the_documented_verifier_takes(
    database: Database, receives: Receiver
) -> None:
    webhook = make(database, f"{receives.url}in", Notice.CANCELLED)
    job_id = submit(database, labels={"team": "x"})
    ask(database, job_id, "cancel")
    with notifying(database):
        request = receives.next()
        wait_for(lambda: deliveries(database, webhook)[0].state == "delivered")
    assert (request.path, request.type) == ("/in", "cancelled")
    told = json.loads(request.body)["data"]
    assert (told["job"]["id"], told["job"]["state"], told["job"]["labels"]) == (job_id, "cancelled", {"team": "x"})
    assert told["event"]["actor"] == "ada"
    page = (ROOT / "docs" / "notifications.md").read_text()
    verifier = re.search(r"```python\n(def verify.*?)```", page, re.DOTALL)
    assert verifier is not None
    imported: dict[str, Any] = {"base64": base64, "hashlib": hashlib, "hmac": hmac, "time": time}
    exec(verifier[1], imported)
    assert imported["verify"](webhook.secret, request.headers, request.body)
    assert not imported["verify"](webhook.secret, request.headers, request.body.replace("cancelled", "succeeded"))
    old = request.headers | {"webhook-timestamp": "1000000000"}
    assert not imported["verify"](webhook.secret, old, request.body)


def test_a_webhook_is_told_of_its_owners_jobs_with_its_labels_and_the_events_that_it_asks_for(
    database: Database, receives: Receiver
) -> None:
    mine = make(database, receives.url, Notice.QUEUED, labels={"team": "x"})
    everybodys = make(database, receives.url, Notice.QUEUED, owner="root", all_owners=True)
    submit(database, labels={"team": "y"})
    wanted = submit(database, labels={"team": "x", "exp": "a"})
    submit(database, owner="bob", labels={"team": "x"})
    ask(database, wanted, "cancel")
    assert [item.job_id for item in deliveries(database, mine)] == [wanted]
    assert len(deliveries(database, everybodys)) == 3


def test_what_was_refused_is_sent_again_under_the_same_id_until_it_arrives(
    database: Database, receives: Receiver
) -> None:
    receives.statuses = [500, 307, 404]
    webhook = make(database, receives.url, Notice.QUEUED)
    submit(database)
    with notifying(database):
        tries = [receives.next() for _ in range(4)]
        wait_for(lambda: deliveries(database, webhook)[0].state == "delivered")
    (delivery,) = deliveries(database, webhook)
    assert (delivery.tries, delivery.status, delivery.error) == (4, 204, None)
    assert {request.headers["webhook-id"] for request in tries} == {delivery.id}
    assert {request.path for request in tries} == {"/"}, "no redirect is followed"


def test_a_webhook_to_which_nothing_arrives_is_disabled_with_an_event_and_goes_on_when_it_is_enabled(
    database: Database, receives: Receiver
) -> None:
    receives.statuses = [500] * 4
    webhook = make(database, receives.url, Notice.QUEUED)
    told = [submit(database), submit(database)]
    with notifying(database, webhook_tries=2, webhook_failures=2):
        wait_for(lambda: read(database, webhook).disabled_at is not None)
    assert [item.state for item in deliveries(database, webhook)] == ["failed", "failed"]
    assert "status 500" in str(read(database, webhook).disabled_because)
    assert "webhook_disabled" in event_names(database, told[1])
    submit(database)
    assert len(deliveries(database, webhook)) == 2, "a disabled webhook is told nothing"
    with database.session() as session:
        with pytest.raises(ConflictError, match="enable it first"):
            webhooks.ping(session, stored.get(session, webhook.id, owner="ada"))
        webhooks.enable(stored.get(session, webhook.id, owner="ada", lock=True))
        webhooks.ping(session, stored.get(session, webhook.id, owner="ada"))
    with notifying(database):
        wait_for(lambda: deliveries(database, webhook)[-1].state == "delivered")
    while receives.received.qsize() > 1:
        receives.next()
    assert receives.next().type == "ping"


def test_a_receiver_that_hangs_holds_up_no_other_and_is_tried_again(
    database: Database, receives: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symadj.service.dispatcher.notifying.SEND_SECONDS", 1.0)
    with receiver() as hangs:
        hangs.open.clear()
        slow = make(database, hangs.url, Notice.QUEUED)
        fast = make(database, receives.url, Notice.QUEUED)
        submitted = [submit(database) for _ in range(3)]
        with notifying(database):
            for _ in submitted:
                assert receives.next().type == "queued"
            wait_for(lambda: deliveries(database, slow)[0].tries > 0)
            assert "no answer within" in str(deliveries(database, slow)[0].error)
            hangs.open.set()
            wait_for(lambda: {item.state for item in deliveries(database, slow)} == {"delivered"})
        assert {item.tries for item in deliveries(database, fast)} == {1}


def test_an_address_that_is_not_public_is_not_connected_to_unless_it_is_named(
    database: Database, receives: Receiver
) -> None:
    url = receives.url.replace("127.0.0.1", "localhost")
    webhook = make(database, url, Notice.QUEUED, allowed=AllowedHosts.parse("localhost"))
    submit(database)
    with notifying(database, webhook_hosts="localhost", webhook_tries=1):
        wait_for(lambda: deliveries(database, webhook)[0].state == "failed")
    assert "not of the public internet" in str(deliveries(database, webhook)[0].error)
    with database.session() as session:
        webhooks.ping(session, stored.get(session, webhook.id, owner="ada"))
    with notifying(database, webhook_hosts="localhost,127.0.0.1"):
        assert receives.next().type == "ping"
    assert receives.received.empty()


def test_a_host_that_is_no_longer_allowed_is_not_called(database: Database, receives: Receiver) -> None:
    webhook = make(database, receives.url, Notice.QUEUED)
    submit(database)
    with notifying(database, webhook_hosts="hooks.example.org", webhook_tries=1):
        wait_for(lambda: deliveries(database, webhook)[0].state == "failed")
    assert "SYMADJ_WEBHOOK_HOSTS" in str(deliveries(database, webhook)[0].error)
    assert receives.received.empty()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_what_a_killed_dispatcher_was_sending_and_what_it_had_not_begun_is_sent_by_the_next(
    database: Database, store_url: str, receives: Receiver, tmp_path: Path
) -> None:
    webhook = make(database, receives.url, Notice.QUEUED)
    told = [submit(database)]
    receives.open.clear()
    settings = {"SYMADJ_DATA": str(tmp_path), "SYMADJ_STORE_URL": store_url, "SYMADJ_WEBHOOK_HOSTS": "127.0.0.1"}
    settings |= {"SYMADJ_RAY_ADDRESS": "http://127.0.0.1:1", "SYMADJ_POLL_SECONDS": "0.05"}
    command = [sys.executable, "-m", "symadj.service.dispatcher"]
    process = subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.DEVNULL)
    first = receives.next()
    process.send_signal(signal.SIGKILL)
    process.wait()
    told.append(submit(database))
    receives.open.set()
    with database.session() as session:  # the time of its lease passes
        delivery = stored.find_delivery(session, first.headers["webhook-id"])
        assert delivery is not None
        assert delivery.lease_expires_at is not None
        delivery.lease_expires_at -= LEASE
    with notifying(database):
        wait_for(lambda: {item.state for item in deliveries(database, webhook)} == {"delivered"})
    sent = [first, *(receives.next() for _ in range(2))]
    assert receives.received.empty()
    ids = {item.job_id: item.id for item in deliveries(database, webhook)}
    assert list(ids) == told, "each event is written down once"
    assert [request.headers["webhook-id"] for request in sent] == [ids[told[0]], ids[told[0]], ids[told[1]]]


def test_an_event_that_is_not_stored_is_told_to_nobody(database: Database) -> None:
    webhook = make(database, "http://127.0.0.1:1/", Notice.CANCELLED)
    job_id = submit(database)
    with database.session() as session:
        requests.cancel(session, jobs.lock(session, job_id), actor="ada")
        session.rollback()
    assert deliveries(database, webhook) == []


def test_of_two_dispatchers_one_sends(database: Database, receives: Receiver) -> None:
    webhook = make(database, receives.url, Notice.QUEUED)
    for _ in range(5):
        submit(database)
    with notifying(database), notifying(database):
        wait_for(lambda: {item.state for item in deliveries(database, webhook)} == {"delivered"})
    assert receives.received.qsize() == 5
    assert {item.tries for item in deliveries(database, webhook)} == {1}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hooks.example.com/", "SYMADJ_WEBHOOK_HOSTS"),
        ("https://example.org/", "SYMADJ_WEBHOOK_HOSTS"),
        ("https://a.hooks.example.org.evil.test/", "SYMADJ_WEBHOOK_HOSTS"),
        ("http://10.0.1.1/", "SYMADJ_WEBHOOK_HOSTS"),
        ("http://[::ffff:10.0.1.1]/", "SYMADJ_WEBHOOK_HOSTS"),
        ("http://2130706433/", "SYMADJ_WEBHOOK_HOSTS"),
        ("ftp://hooks.example.org/", "https://host/path"),
        ("https://ada:secret@hooks.example.org/", "neither user"),
        ("hooks.example.org", "https://host/path"),
    ],
)
def test_an_address_that_may_not_be_called_is_refused_with_what_to_set(url: str, told: str) -> None:
    with pytest.raises(InvalidParameterError, match=told):
        webhooks.check_url(url, AllowedHosts.parse("hooks.example.org, *.example.net, 10.0.0.0/24"))


@pytest.mark.parametrize(
    "url",
    ["https://HOOKS.example.org./x", "https://a.b.example.net", "http://10.0.0.9:8080/", "http://[::ffff:10.0.0.9]"],
)
def test_an_address_of_an_allowed_host_is_taken(url: str) -> None:
    webhooks.check_url(url, AllowedHosts.parse("hooks.example.org, *.example.net, 10.0.0.0/24"))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0"),
        *("fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ],
)
def test_no_name_leads_to_an_address_inside(address: str) -> None:
    assert not AllowedHosts.parse("hooks.example.org").reaches(address)
    assert AllowedHosts.parse("").reaches("93.184.216.34")
    assert AllowedHosts.parse("").reaches("2606:2800:220:1::1")


def test_what_is_no_host_is_refused_by_the_settings() -> None:
    with pytest.raises(ValueError, match="is no host"):
        Settings(webhook_hosts="https://hooks.example.org/")
