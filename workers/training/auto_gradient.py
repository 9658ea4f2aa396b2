"""What the symplectic sweep keeps, chosen by the memory there is (``gradient.kind: auto``)."""

from __future__ import annotations

import torch

from symadj_core.flows import Flow
from symadj_core.gradients import Symplectic
from symadj_core.gradients.keep import Binomial, Budget, Keep

__all__ = ["AutoGradient", "budget_of_device"]

_FEWEST = Binomial(2)
# Little memory still, and far less recomputation where a solve takes hundreds of steps.
_FEW = Binomial(8)
# The second has the optimiser's state beside it.
_STEPS_WITH_FEW = 2
# Of the room that was measured, before it is known what a byte of states takes of the process's memory.
_TRIED = 0.5
# Of the room that was measured, once that is known.
_TAKEN = 0.8
# Of the budget, where the platform measures no peaks.
_TAKEN_UNMEASURED = 0.25
# Bytes; with less, the fewest states are kept.
_LEAST_ROOM = 2**20


class AutoGradient:
    """Lets the backward sweep of a flow keep as many states as the budget has room for.

    The first two steps that solve an ODE keep few states; half of what the peak of the second leaves of the budget is
    given to the states of the third. Its peak says what a byte of them takes: 1.0 bytes of jemalloc's heap, 1.5 of
    glibc's (2.36, blocks of 256 KiB between temporary ones), which leaves holes. From then on they have what fits.
    Within it, a solve of more steps keeps the stages of fewer of them, then states alone, then some of the states
    (``symadj_core.gradients.keep.Budget``). The bits of the gradient are the same whatever is kept. So every rank
    chooses for itself, and a run that continues chooses anew.

    Args:
        flow: whose gradient it is, changed in place.
        budget: bytes that the process may hold, of the kind of memory that its tensors are in.
    """

    def __init__(self, flow: Flow, budget: int) -> None:
        self._flow, self._budget = flow, budget
        self._steps = self._room = self._peak_with_few = 0
        self._keep(_FEW)

    @property
    def may_keep_less(self) -> bool:
        """Whether a step of the same rows could do with less."""
        return self._kept != _FEWEST

    def after_step(self, peak: int | None) -> int | None:
        """Choose anew by the peak of a step that solved an ODE, in bytes; None where none is measured.

        Returns:
            The bytes for the states of all blocks, if they were chosen anew.
        """
        self._steps += 1
        if peak is not None and peak > self._budget and self.may_keep_less:
            return self._choose(self._room - (peak - self._budget))
        if self._steps == _STEPS_WITH_FEW:
            self._peak_with_few = peak or 0
            return self._choose(int(_TAKEN_UNMEASURED * self._budget if peak is None else _TRIED * self._free))
        if self._steps == _STEPS_WITH_FEW + 1 and peak is not None and self._room:
            # A solve that kept less than it might is no measure.
            cost = max(1.0, (peak - self._peak_with_few) / self._room)
            return self._choose(int(_TAKEN * self._free / cost))
        return None

    @property
    def _free(self) -> int:
        return self._budget - self._peak_with_few

    def keep_less(self) -> int:
        """Give the states half as many bytes after memory ran out nevertheless; return how many."""
        return self._choose(self._room // 2)

    def _choose(self, room: int) -> int:
        self._room = room if room > _LEAST_ROOM else 0
        # All blocks' states are there when the backward sweep begins.
        self._keep(Budget(self._room // len(self._flow.stack())) if self._room else _FEWEST)
        return self._room

    def _keep(self, keep: Keep) -> None:
        self._kept = keep
        self._flow.set_gradient(Symplectic(keep))


def budget_of_device(device: torch.device) -> int:
    """Return the bytes of an accelerator that torch holds or may still have."""
    free, _ = torch.accelerator.get_memory_info(device)
    return int(free) + int(torch.accelerator.memory_reserved(device))
