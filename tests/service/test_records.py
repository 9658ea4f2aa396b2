"""What runs send can be stored on every database, whatever a library's words have in them."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from symadj.service.contract.records import AnyRecord, ArtifactRecord, EventRecord, OutcomeRecord, RecordBatch
from symadj.service.contract.result import JobResult
from symadj.service.contract.storable import LONGEST_MESSAGE

NOW = "2026-01-01T12:00:00+02:00"


def event(**fields: Any) -> EventRecord:
    return EventRecord.model_validate({"time": NOW, "name": "seen", "message": ""} | fields)


def test_words_lose_what_postgresql_cannot_keep() -> None:
    assert event(message="cut\0here \ud800").message == "cut�here ?"
    assert event(data={"a\0": ["\0", {"b": "\udcff"}]}).data == {"a�": ["�", {"b": "?"}]}


def test_numbers_that_json_does_not_have_are_kept_as_words() -> None:
    result = {"test_nll": float("nan"), "test_nll_gap": "-Infinity", "of_a_newer_worker": [1.5]}
    record = OutcomeRecord.model_validate({"time": NOW, "state": "succeeded", "result": result})
    assert record.result is not None
    stored = record.result.stored()
    assert stored == {"test_nll": "NaN", "test_nll_gap": "-Infinity", "of_a_newer_worker": [1.5]}
    again = JobResult.model_validate(json.loads(json.dumps(stored, allow_nan=False)))
    assert again.test_nll is not None
    assert math.isnan(again.test_nll)
    assert again.test_nll_gap == -math.inf


def test_a_result_loses_what_postgresql_cannot_keep_in_fields_of_other_versions_too() -> None:
    result = {"test_solver": {"divergence": "ex\0act"}, "of_a_newer_worker": {"a\0": ["\ud800"]}}
    record = OutcomeRecord.model_validate({"time": NOW, "state": "succeeded", "result": result})
    assert record.result is not None
    assert record.result.stored() == {
        "test_solver": {"divergence": "ex�act"},
        "of_a_newer_worker": {"a�": ["?"]},
    }


def test_times_are_in_utc() -> None:
    assert event().time.isoformat() == "2026-01-01T10:00:00+00:00"


@pytest.mark.parametrize("time", [0, 1.7e9, "1700000000", True])
def test_a_time_is_written_out(time: object) -> None:
    with pytest.raises(ValidationError, match="write it out"):
        event(time=time)


@pytest.mark.parametrize("record", get_args(AnyRecord), ids=lambda record: record.__name__)
def test_the_documented_interface_asks_for_the_kind_of_a_record_as_the_api_does(record: type[BaseModel]) -> None:
    assert "kind" in record.model_json_schema()["required"]
    without = {"source": "driver", "first_seq": 1, "records": [{"time": NOW}]}
    with pytest.raises(ValidationError, match="kind"):
        RecordBatch.model_validate(without)


def test_what_nests_without_end_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(2000):
        nested = [nested]
    with pytest.raises(ValidationError, match="nested too deeply"):
        event(data={"a": nested})


@pytest.mark.parametrize("levels", [300, 2000])
def test_a_result_that_nests_without_end_is_refused(levels: int) -> None:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    result = {"of_a_newer_worker": nested}
    with pytest.raises(ValidationError, match=r"too deeply|depth"):
        OutcomeRecord.model_validate({"time": NOW, "state": "succeeded", "result": result})


@pytest.mark.parametrize("time", ["2026-01-01T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_in_utc_is_refused(time: str) -> None:
    with pytest.raises(ValidationError, match="time"):
        event(time=time)


@pytest.mark.parametrize("media_type", ["text/plain\0", "text/plain\r\nX: y", "te\xe4t/plain", ""])
def test_a_media_type_that_could_stand_in_no_header_is_refused(media_type: str) -> None:
    fields = {"time": NOW, "name": "a", "bytes": 1, "sha256": "0" * 64, "media_type": media_type}
    with pytest.raises(ValidationError, match="media_type"):
        ArtifactRecord.model_validate(fields)


def test_a_message_of_any_length_is_cut_and_stays_with_its_code() -> None:
    record = OutcomeRecord.model_validate(
        {"time": NOW, "state": "failed", "reason": "data_error", "message": "x" * 100_000}
    )
    assert record.reason == "data_error"
    assert len(record.message) == LONGEST_MESSAGE
    assert record.message.endswith("(cut)")
    assert len(event(message="x" * 100_000).message) == LONGEST_MESSAGE
    assert event(message="x" * LONGEST_MESSAGE).message == "x" * LONGEST_MESSAGE
