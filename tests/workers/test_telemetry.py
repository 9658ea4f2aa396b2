"""Delivery of records: each one once, whatever the API does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from symadj.service.contract.records import EventRecord
from symadj.service.contract.states import StopReason
from symadj.workers.delivery import sender as delivery
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.delivery.sender import Sender
from symadj.workers.delivery.spool import Spool
from tests.workers.ingest import TOKEN, IngestServer, OfAnother

FLUSH_S = 30.0


@pytest.fixture
def sender(ingest: IngestServer, tmp_path: Path) -> Iterator[Sender]:
    sender = Sender(Spool(tmp_path / "job" / "1" / "rank-0.jsonl"), ingest.url, TOKEN, "rank-0")
    yield sender
    sender.close()


def put(sender: Sender, *numbers: int) -> None:
    for number in numbers:
        sender.put(EventRecord(time=datetime.now(UTC), name="tick", message=str(number)))


def messages(ingest: IngestServer) -> list[int]:
    return [int(record["message"]) for record in ingest.records["rank-0"]]


def test_records_arrive_in_order_without_being_asked_for(ingest: IngestServer, sender: Sender) -> None:
    put(sender, *range(10))
    ingest.wait_for(lambda: messages(ingest) == list(range(10)))


def test_the_first_records_of_a_run_wait_for_no_others(
    ingest: IngestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SEND_INTERVAL_S", 3600.0)
    begun = Sender(Spool(tmp_path / "job" / "1" / "rank-0.jsonl"), ingest.url, TOKEN, "rank-0")
    put(begun, 1)
    ingest.wait_for(lambda: messages(ingest) == [1])
    put(begun, 2)
    ingest.wait_for(lambda: messages(ingest) == [1, 2])
    begun.close()


def test_more_records_than_a_batch_holds_arrive_in_several(ingest: IngestServer, sender: Sender) -> None:
    put(sender, *range(2500))
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == list(range(2500))
    assert ingest.requests >= 3


def test_a_batch_whose_answer_was_lost_is_not_stored_twice(ingest: IngestServer, sender: Sender) -> None:
    ingest.faults.extend(["drop", "drop"])
    put(sender, *range(20))
    assert sender.flush(FLUSH_S)
    put(sender, *range(20, 30))
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == list(range(30))


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_an_api_in_trouble_is_asked_again(ingest: IngestServer, sender: Sender, status: int) -> None:
    ingest.faults.extend([status, status])
    put(sender, 1, 2, 3)
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == [1, 2, 3]


def test_nothing_is_lost_or_doubled_while_the_api_is_restarted(ingest: IngestServer, sender: Sender) -> None:
    put(sender, *range(5))
    assert sender.flush(FLUSH_S)
    ingest.stop()
    put(sender, *range(5, 1500))
    assert not sender.flush(0.3)
    ingest.start()
    put(sender, *range(1500, 1600))
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == list(range(1600))


def test_records_made_while_a_sign_of_life_waits_for_its_answer_arrive(ingest: IngestServer, sender: Sender) -> None:
    # The first batch is empty, since nothing was put yet; the API answers it only after a record was made.
    ingest.always = 503
    ingest.wait_for(lambda: ingest.requests >= 1)
    put(sender, 1)
    ingest.always = None
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == [1]


def test_an_api_that_lost_its_last_records_gets_them_again(ingest: IngestServer, sender: Sender) -> None:
    put(sender, *range(300))
    assert sender.flush(FLUSH_S)
    del ingest.records["rank-0"][290:]
    put(sender, *range(300, 310))
    assert sender.flush(FLUSH_S)
    assert messages(ingest) == list(range(310))


def test_the_apis_wish_to_stop_is_seen(ingest: IngestServer, sender: Sender) -> None:
    put(sender, 1)
    assert sender.flush(FLUSH_S)
    assert sender.stop is None
    ingest.stop_wish = StopReason.PAUSE
    put(sender, 2)
    assert sender.flush(FLUSH_S)
    assert sender.stop is StopReason.PAUSE


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_attempt_that_is_not_wanted_any_more_stops_sending(
    ingest: IngestServer, sender: Sender, status: int
) -> None:
    ingest.always = status
    put(sender, 1)
    assert not sender.flush(FLUSH_S)
    assert sender.superseded
    put(sender, 2)
    assert not sender.flush(FLUSH_S)
    assert ingest.requests == 1


@pytest.mark.parametrize("status", [200, 401, 403, 404, 410])
def test_what_a_proxy_answers_in_the_apis_place_ends_no_run_and_loses_no_record(
    ingest: IngestServer, sender: Sender, status: int
) -> None:
    ingest.faults.extend([OfAnother(status, "<html>No server is available.</html>"), OfAnother(status, "")])
    put(sender, 1, 2)
    assert sender.flush(FLUSH_S)
    assert not sender.superseded
    assert messages(ingest) == [1, 2]


def test_a_record_that_the_api_refuses_is_an_error_of_the_run(ingest: IngestServer, sender: Sender) -> None:
    ingest.always = 422
    put(sender, 1)
    with pytest.raises(TelemetryError, match="answered 422 to records of rank-0 from number 1"):
        sender.flush(FLUSH_S)
    with pytest.raises(TelemetryError):
        put(sender, 2)


def test_an_api_that_waits_for_records_never_made_is_an_error(ingest: IngestServer, sender: Sender) -> None:
    ingest.records["rank-0"] = [{"message": "0"}] * 7
    put(sender, 1)
    with pytest.raises(TelemetryError, match="waits for record 8 of rank-0, which has made 1"):
        sender.flush(FLUSH_S)


def test_the_spool_is_deleted_once_all_is_delivered_and_kept_otherwise(ingest: IngestServer, tmp_path: Path) -> None:
    path = tmp_path / "spools" / "job" / "1" / "rank-1.jsonl"
    sender = Sender(Spool(path), ingest.url, TOKEN, "rank-1")
    put(sender, 1)
    assert sender.flush(FLUSH_S)
    sender.close()
    assert not (tmp_path / "spools" / "job").exists()

    ingest.stop()
    sender = Sender(Spool(path), ingest.url, TOKEN, "rank-1")
    put(sender, 1)
    sender.close()
    assert path.read_bytes().count(b"\n") == 1
    ingest.start()
