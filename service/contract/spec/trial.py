"""A spec made small: every part of it runs, and soon ends."""

from __future__ import annotations

import copy
from typing import Any

from symadj.service.contract.spec.usual import with_usual_training

__all__ = ["TRIAL_LABEL", "trial_of"]

# The label that such a job has.
TRIAL_LABEL = ("trial", "true")

_STEPS = 20
_PRETRAINING_STEPS = 10
_WARMUP_STEPS = 2
_VALIDATE_EVERY_STEPS = 10
_BATCH_ROWS = 64
# Of toys, which are drawn; files are read whole.
_TOY_ROWS = 1000
_EVALUATION_ROWS = {"validation_rows": 100, "test_rows": 100, "inverse_rows": 100}
# Of the evaluation, what takes long whatever the rows are, or means nothing for so few.
_LEFT_OUT = {"mixture_components": 0, "gradient_rows": 0, "two_sample_rows": 0, "calibration_rows": 0, "plots": False}


def trial_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return a spec, as a user wrote it, with few steps, small batches, a short evaluation, and the label of a trial.

    The flow, the solver, the gradient and the resources stay, and so does what is wrong, for the API to say.
    """
    spec: dict[str, Any] = copy.deepcopy(with_usual_training(document))
    spec["stop"] = {"kind": "steps", "max_steps": _STEPS}
    pretraining = spec.get("pretraining")
    if isinstance(pretraining, dict):
        _cap(pretraining, steps=_PRETRAINING_STEPS)
    for section in (pretraining, spec.get("optimizer")):
        if isinstance(section, dict) and isinstance(section.get("schedule"), dict):
            _cap(section["schedule"], warmup_steps=_WARMUP_STEPS)
    data, resources = spec.get("data"), spec.get("resources")
    if isinstance(data, dict):
        workers = resources.get("workers", 1) if isinstance(resources, dict) else 1
        share = max(1, _BATCH_ROWS // workers) if isinstance(workers, int) and workers > 0 else _BATCH_ROWS
        if data.get("kind") in ("toy", "builtin"):  # of a file, the rows may be fewer
            data.setdefault("batch_size", _BATCH_ROWS)
        _cap(data, batch_size=share * workers if isinstance(workers, int) else share, rows=_TOY_ROWS)
        if data.get("kind") == "parquet_stream":
            data |= {"validation_rows": _EVALUATION_ROWS["validation_rows"], "test_rows": _EVALUATION_ROWS["test_rows"]}
    if spec.get("evaluation", {}) is not None:
        given = spec.get("evaluation", {})
        spec["evaluation"] = given if not isinstance(given, dict) else given | _EVALUATION_ROWS | _LEFT_OUT
        if isinstance(given, dict) and given.get("validate_every_steps", 0) is not None:
            spec["evaluation"]["validate_every_steps"] = _VALIDATE_EVERY_STEPS
    labels = spec.get("labels") or {}
    spec["labels"] = labels | dict([TRIAL_LABEL]) if isinstance(labels, dict) else labels
    return spec


def _cap(section: dict[str, Any], **most: int) -> None:
    """Bring numbers of a section, where it has them, down to these."""
    for name, bound in most.items():
        given = section.get(name)
        if isinstance(given, int) and not isinstance(given, bool):
            section[name] = min(given, bound)
