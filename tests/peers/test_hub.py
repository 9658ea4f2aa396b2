"""Model cards as the library of a hub reads them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, metadata_load

from symadj.workers.files.model_card import CARD
from tests.workers.runs import run


def test_the_hub_reads_the_card_of_a_run(tmp_path: Path) -> None:
    evaluation = {"validate_every_steps": None, "mixture_components": 0, "two_sample_rows": 0, "plots": False}
    outcome, _ = run(tmp_path, name="two moons", stop={"kind": "steps", "max_steps": 2}, evaluation=evaluation)
    path = tmp_path / "job-1" / "artifacts" / "1" / CARD
    card = ModelCard.load(path)
    assert card.data.to_dict()["library_name"] == "symadj"
    assert card.data.model_name == "two moons"
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["nll"].metric_value == outcome.result.test_nll_original_units
    assert (results["nll"].task_type, results["nll"].dataset_name) == ("density-estimation", "moons")
    assert metadata_load(path) == card.data.to_dict()
    # Written again by the hub's own way it says the same.
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
