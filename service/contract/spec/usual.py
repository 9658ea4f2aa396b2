"""The usual training: what a spec means that says nothing of its own about training."""

from __future__ import annotations

from typing import Any

__all__ = ["OF_TRAINING", "USUAL_TRAINING", "with_usual_training"]

# A spec that has one of these says how it trains; what it leaves out then has the default of its section.
OF_TRAINING = ("regularisers", "pretraining", "optimizer", "ema", "stop", "early_stop")

# A step of flow matching costs a thirtieth of one of the likelihood, so it does most of the work. docs/results.md has
# what this gives on the toys and the built-in sets.
USUAL_TRAINING: dict[str, Any] = {
    "flow": {
        "kind": "cnf",
        "blocks": 1,
        "field": {"kind": "mlp", "hidden": None, "time": "fourier", "activation": "silu"},
    },
    "solver": {"kind": "adaptive", "method": "dopri5", "rtol": 1e-4, "atol": 1e-5},
    "pretraining": {
        "kind": "flow_matching",
        "steps": 5000,
        "max_epochs": 700,  # 5,000 learn 120 rows of iris by heart
        "learning_rate": 5e-3,
        "schedule": {"kind": "cosine", "warmup_steps": 50},
    },
    "ema": {"decay": 0.99},
    "optimizer": {"kind": "adam", "learning_rate": 1e-3, "schedule": {"kind": "cosine", "warmup_steps": 10}},
    "stop": {"kind": "steps", "max_steps": 5050},
    # Some sets of few rows are learnt by heart even so; their own validation rows tell.
    "early_stop": {"count_pretraining": True},
    "evaluation": {"validate_every_steps": 1000, "validate_every_epochs": 140},
}


def with_usual_training(values: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a spec, with the usual training where they say nothing about it.

    The flow, the solver and the evaluation that suit it are filled in where the spec has none of its own.
    """
    if any(name in values for name in OF_TRAINING):
        return values
    usual = USUAL_TRAINING | values
    evaluation = usual["evaluation"]
    if evaluation is None or (isinstance(evaluation, dict) and evaluation.get("validate_every_steps", 0) is None):
        del usual["early_stop"]  # nothing is validated
    return usual
