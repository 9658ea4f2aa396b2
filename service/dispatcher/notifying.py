"""Sends to webhooks what they are to be told, in a thread of its own: no receiver holds up anything but itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy.exc import SQLAlchemyError

from symadj.service.dispatcher.settling import ACTOR
from symadj.service.errors import InvalidParameterError
from symadj.service.hosts import AllowedHosts
from symadj.service.settings import Settings
from symadj.service.store import Database, events, jobs, webhooks
from symadj.service.store.tables import Webhook, WebhookDelivery
from symadj.service.webhooks import check_url, headers

__all__ = ["Notifier"]

log = logging.getLogger("symadj.webhooks")

# For all of a try: the name, the connection, the answer.
SEND_SECONDS = 10.0
# Who dies meanwhile leaves a delivery to the next one.
LEASE = timedelta(seconds=60)
AT_ONCE = 50
KEPT = timedelta(days=30)
TIDY_SECONDS = 3600.0
_GONE = 410


@dataclass(frozen=True)
class _Answer:
    """How a try ended; ``error`` is None if it arrived."""

    status: int | None
    error: str | None


class Notifier:
    """Sends deliveries that are due, one at a time to each webhook.

    What is written down is sent until it arrives or was tried as often as it may be, whatever dies in between: who
    claims a delivery and dies leaves it to the next one, which sends it under the same id.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._allowed = settings.allowed_webhook_hosts()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="webhooks", daemon=True)
        self._stopping = threading.Event()
        self._next_tidying = 0.0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Let what is being sent end, and stop."""
        self._stopping.set()
        self._thread.join(2 * SEND_SECONDS)

    async def _run(self) -> None:
        sending: dict[str, asyncio.Task[None]] = {}
        # A connection serves one request: addresses that names share must not share connections.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=SEND_SECONDS, limits=limits
        ) as client:
            while not self._stopping.is_set():
                try:
                    due = await asyncio.to_thread(self._claim, set(sending))
                except SQLAlchemyError as error:
                    log.warning("what webhooks are to be told is looked for later: %s", error)
                    due = []
                for webhook, delivery in due:
                    sending[webhook.id] = asyncio.create_task(self._deliver(client, webhook, delivery))
                await self._wait(sending)
            if sending:
                await asyncio.wait(sending.values())

    async def _wait(self, sending: dict[str, asyncio.Task[None]]) -> None:
        """Wait for the next look: until one has arrived, after which its webhook's next may be due, or a while."""
        pause = self._settings.poll_seconds
        if sending:
            await asyncio.wait(sending.values(), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for webhook_id, task in list(sending.items()):
                if task.done():
                    del sending[webhook_id]
                    if (error := task.exception()) is not None:
                        log.error("a delivery to webhook %s was cut off", webhook_id, exc_info=error)
        else:
            await asyncio.to_thread(self._stopping.wait, pause)

    def _claim(self, busy: set[str]) -> list[tuple[Webhook, WebhookDelivery]]:
        if time.monotonic() >= self._next_tidying:
            self._next_tidying = time.monotonic() + TIDY_SECONDS
            self._remove_old()
        now = datetime.now(UTC)
        # Looked at without the lock of those that write: there is seldom anything.
        with self._database.read_session() as session:
            if not webhooks.any_due(session, now=now, busy=busy):
                return []
        with self._database.session() as session:
            token = secrets.token_hex(16)
            return webhooks.claim_due(session, now=now, busy=busy, lease=LEASE, token=token, most=AT_ONCE)

    async def _deliver(self, client: httpx.AsyncClient, webhook: Webhook, delivery: WebhookDelivery) -> None:
        answer = await self._send(client, webhook, delivery)
        await asyncio.to_thread(self._settle, webhook, delivery, answer)

    async def _send(self, client: httpx.AsyncClient, webhook: Webhook, delivery: WebhookDelivery) -> _Answer:
        sent = headers(webhook.secret, delivery.id, delivery.body, datetime.now(UTC))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                url = check_url(webhook.url, self._allowed)
                address = await _address(url, self._allowed)
                request = client.build_request(
                    "POST",
                    url.copy_with(host=address),
                    content=delivery.body.encode(),
                    headers=sent | {"Host": url.netloc.decode()},
                    # The certificate must be that of the name.
                    extensions={"sni_hostname": url.raw_host.decode()},
                )
                # Of the answer its status is read, and not its content.
                answer = await client.send(request, stream=True)
                await answer.aclose()
        except TimeoutError:
            return _Answer(None, f"no answer within {SEND_SECONDS:g} s")
        except (httpx.HTTPError, InvalidParameterError, OSError, UnicodeError) as error:
            return _Answer(None, str(error) or type(error).__name__)
        if answer.is_success:
            return _Answer(answer.status_code, None)
        why = "redirects are not followed" if answer.is_redirect else "a status of 200 to 299 is expected"
        return _Answer(answer.status_code, f"status {answer.status_code}: {why}")

    def _settle(self, webhook: Webhook, delivery: WebhookDelivery, answer: _Answer) -> None:
        """Write down how a try ended, and when the next one is."""
        now = datetime.now(UTC)
        with self._database.session() as session:
            current = webhooks.find_delivery(session, delivery.id)
            if current is None or current.lease_token != delivery.lease_token:
                return  # its webhook was deleted, or another has taken it
            current.tries += 1
            current.status, current.error = answer.status, answer.error
            current.lease_token = current.lease_expires_at = None
            receiver = webhooks.get(session, webhook.id, owner=None, lock=True)
            if answer.error is None:
                current.state, current.settled_at = webhooks.DELIVERED, now
                receiver.failures = 0
                return
            pause = self._settings.webhook_retry_seconds * 2.0 ** min(current.tries - 1, 30)
            current.next_try_at = now + min(webhooks.LONGEST_PAUSE, timedelta(seconds=pause))
            gone = answer.status == _GONE
            if current.tries >= self._settings.webhook_tries or gone:
                current.state, current.settled_at = webhooks.FAILED, now
                receiver.failures += 1
                if receiver.disabled_at is None and (gone or receiver.failures >= self._settings.webhook_failures):
                    receiver.disabled_at = now
                    receiver.disabled_because = answer.error
                    job = jobs.find_locked(session, current.job_id) if current.job_id is not None else None
                    if job is not None:
                        told = f"Webhook {webhook.id} is disabled, for what it is told does not arrive: {answer.error}"
                        data = {"webhook": webhook.id, "delivery": current.id}
                        events.append(session, job, actor=ACTOR, name="webhook_disabled", message=told, data=data)
        log.warning("webhook %s: try %d of delivery %s: %s", webhook.id, current.tries, current.id, answer.error)

    def _remove_old(self) -> None:
        removed = 500
        while removed == 500:
            with self._database.session() as session:
                removed = webhooks.delete_settled_before(session, datetime.now(UTC) - KEPT, most=500)


async def _address(url: httpx.URL, allowed: AllowedHosts) -> str:
    """Return an address of a host that may be connected to; it is this one that is connected to.

    Raises:
        InvalidParameterError: it has none.
        OSError: the name is not known.
    """
    host = url.raw_host.decode()
    found = await asyncio.get_running_loop().getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
    addresses = [str(item[4][0]) for item in found]
    for address in addresses:
        if allowed.reaches(address):
            return address
    raise InvalidParameterError(
        f"{host} has the address {', '.join(addresses)}, which is not of the public internet: to reach it, the "
        "operator adds the address itself, or its network, to SYMADJ_WEBHOOK_HOSTS"
    )
