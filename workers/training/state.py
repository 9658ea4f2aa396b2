"""The state of a training: everything that changes while a flow is trained."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor

from symadj.service.contract.spec import JobSpec
from symadj.workers.history import History
from symadj.workers.training.averaging import WeightAverage
from symadj.workers.training.optimisers import build_optimizer
from symadj.workers.training.schedules import pretraining_steps, uncounted_steps
from symadj.workers.validation import Validation
from symadj_core.flows import Flow

__all__ = ["TrainingState"]


class TrainingState:
    """Weights, optimiser and validations after a number of steps.

    Everything else about a step (its rows, probes, rate, weights of regularisers, pairs of flow matching) is a
    pure function of the spec, the step and ``validations``. So a run that goes on from a ``state_dict`` makes the
    same bits as one that was never interrupted.

    Attributes:
        flow: that is trained, in place.
        average: of its weights, or None where the spec asks for none.
        optimizer: of the current phase.
        step: number of steps done.
        seconds: of training until now, over all attempts.
        validations: all of them, oldest first; the same on all ranks.
        skipped_in_a_row: how many of the last steps diverged and left the weights unchanged.
        halvings: how often a divergence has halved the learning rate.
        microbatch_halvings: how often the lack of memory has halved the microbatches.
        history: the course of the training so far; complete on rank 0 only.
    """

    def __init__(self, spec: JobSpec, flow: Flow) -> None:
        self._spec = spec
        self.flow = flow
        self.average = None if spec.ema is None else WeightAverage(flow, spec.ema.decay)
        self.optimizer = build_optimizer(spec.optimizer, flow.parameters())
        self.step = 0
        self.seconds = 0.0
        self.validations: list[Validation] = []
        self.skipped_in_a_row = 0
        self.halvings = 0
        self.microbatch_halvings = 0
        self.history = History()
        self._best: dict[str, Any] | None = None

    @property
    def evaluated(self) -> Flow:
        """The flow that is validated, tested, sampled and saved: the average, where there is one."""
        return self.flow if self.average is None else self.average.flow

    def begin_step(self, step: int) -> None:
        """Start the likelihood with a new optimiser, as the old one's moments are of another loss.

        It goes on from the best weights of pre-training, if the validations of that count.
        """
        if step > 1 and step == pretraining_steps(self._spec) + 1:
            self.restore_best()
            self.optimizer = build_optimizer(self._spec.optimizer, self.flow.parameters())

    def skip_step(self, step: int) -> None:
        """Note that ``step`` is done, and changed nothing."""
        self.step = step
        self.skipped_in_a_row += 1

    def end_step(self, step: int) -> None:
        """Note that ``step`` is done."""
        self.step = step
        self.skipped_in_a_row = 0
        if self.average is not None:
            self.average.update(self.flow, step)

    def validated(self, validation: Validation) -> bool:
        """Add a validation of the current weights; with early stop in the spec, keep them if it is the best.

        Returns:
            Whether it is the best one so far of those that count.
        """
        uncounted = uncounted_steps(self._spec)
        earlier = [v.nll for v in self.validations if v.step > uncounted and not math.isnan(v.nll)]
        self.validations.append(validation)
        best = validation.step > uncounted and validation.nll < min(earlier, default=math.inf)
        if best and self._spec.early_stop is not None:
            self._best = {"step": validation.step, "weights": copy.deepcopy(self._weights())}
        return best

    def restore_best(self) -> int:
        """Return to the weights of the best validation, if they are kept; return the step that they are of."""
        if self._best is None:
            return self.step
        self._load_weights(self._best["weights"])
        return int(self._best["step"])

    def state_dict(self) -> dict[str, Any]:
        """Return everything, for ``torch.save``; tensors are shared with this state, not copied."""
        return {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "validations": [tuple(validation) for validation in self.validations],
            "skipped_in_a_row": self.skipped_in_a_row,
            "halvings": self.halvings,
            "microbatch_halvings": self.microbatch_halvings,
            "best": self._best,
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        The spec may differ from that of the stored state, but for the flow and the kind of optimiser: this one's
        settings apply, including the optimiser's.
        """
        self._load_weights(state["weights"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        self.step, self.seconds = state["step"], state["seconds"]
        self.validations = [Validation(*validation) for validation in state["validations"]]
        self.skipped_in_a_row, self.halvings = state["skipped_in_a_row"], state["halvings"]
        # Checkpoints of earlier versions have none.
        self.microbatch_halvings = state.get("microbatch_halvings", 0)
        self._best = state["best"] if self._spec.early_stop is not None else None
        self.history.load_state_dict(state["history"])

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        weights = {"flow": self.flow.state_dict()}
        if self.average is not None:
            weights["average"] = self.average.flow.state_dict()
        return weights

    def _load_weights(self, weights: dict[str, dict[str, Tensor]]) -> None:
        self.flow.load_state_dict(weights["flow"])
        if self.average is not None:
            # A training without an average has none: it starts from the weights.
            self.average.flow.load_state_dict(weights.get("average", weights["flow"]))
