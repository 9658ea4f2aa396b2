"""The model card beside the weights: what a hub reads of it, and any text in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from symadj.service.contract.result import JobResult
from symadj.service.contract.spec import JobSpec
from symadj.workers.files.model_card import CARD, model_card
from tests.workers.runs import SMALL, run

ROWS = {"training": 320, "validation": 40, "test": 40}
RESULT = JobResult(test_nll_original_units=3.25, test_nll_original_units_stderr=0.1, test_rows=40, parameters=9)


def card(result: JobResult = RESULT, columns: Any = ("x", "y"), **changes: Any) -> tuple[dict[str, Any], str]:
    """Front matter and page of a card, parted as hubs do it: by the first line of three hyphens after the first."""
    written = model_card(JobSpec.model_validate(SMALL | changes), result, ROWS, list(columns), [])
    opening, front, page = written.decode().split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(front), page


def test_a_run_leaves_a_card_with_its_result_beside_the_weights(tmp_path: Path) -> None:
    evaluation = {"validate_every_steps": None, "mixture_components": 0, "two_sample_rows": 0, "plots": False}
    outcome, outbox = run(tmp_path, name="two moons", stop={"kind": "steps", "max_steps": 2}, evaluation=evaluation)
    records = {record.name: record for record in outbox.of("artifact")}
    assert records[CARD].media_type == "text/markdown"
    written = (tmp_path / "job-1" / "artifacts" / "1" / CARD).read_text()
    front = yaml.safe_load(written.split("---\n", 2)[1])
    assert front["library_name"] == "symadj"
    (model,) = front["model-index"]
    assert model["name"] == "two moons"
    (result,) = model["results"]
    assert result["dataset"] == {"type": "toy", "name": "moons", "split": "test"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["nll"] == outcome.result.test_nll_original_units
    assert outcome.result.report_failures is None


def test_a_card_that_can_not_be_written_does_not_fail_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise ValueError("no card today")

    monkeypatch.setattr("symadj.workers.attempt.model_card", broken)
    outcome, _ = run(tmp_path, stop={"kind": "steps", "max_steps": 1}, evaluation=None)
    assert outcome.state == "succeeded"
    assert [failure.part for failure in outcome.result.report_failures] == [CARD]
    assert CARD in outcome.message


def test_without_an_evaluation_the_card_has_no_metrics() -> None:
    front, page = card(JobResult(steps=2), evaluation=None)
    assert "model-index" not in front
    assert "The run was not evaluated." in page


def test_what_is_not_a_number_is_no_metric() -> None:
    front, _ = card(RESULT.model_copy(update={"test_nll": float("nan"), "test_bits_per_dim": float("inf")}))
    assert [metric["type"] for metric in front["model-index"][0]["results"][0]["metrics"]] == ["nll"]


@pytest.mark.parametrize(
    "text", ["a: b", "---", "x\n---\ny: 1", "```", "'\"\\", "\u2028\x85\x00\ud800", "no", "#", "Größe 😀"]
)
def test_any_text_in_names_and_labels_leaves_a_card_that_reads_back(text: str) -> None:
    _, page = card(columns=[text, "y"])
    data = yaml.safe_load(page.split("## Data\n\n```yaml\n", 1)[1].split("\n```\n", 1)[0])
    assert data["columns"] == [text, "y"]
    assert data["rows"] == ROWS
    if text.isprintable():
        path = {"kind": "file", "path": f"{text}.csv", "batch_size": 32}
        front, _ = card(data=path, labels={"team": text})
        assert front["model-index"][0]["results"][0]["dataset"]["name"] == f"{text}.csv"


@pytest.mark.parametrize("name", ["no", "0x1F", "1_000", "2026-11-27", "null", "__init__"])
def test_the_name_of_a_job_stays_a_text(name: str) -> None:
    assert card(name=name)[0]["model-index"][0]["name"] == name


def test_many_columns_make_no_large_card() -> None:
    spec = JobSpec.model_validate(SMALL)
    names = [f"column {n}" for n in range(100_000)]
    written = model_card(spec, RESULT, ROWS, names, [])
    assert len(written) < 10_000
    assert b"columns_not_shown: 99950" in written
    assert written == model_card(spec, RESULT, ROWS, names, [])
