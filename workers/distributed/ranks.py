"""The ranks of one run: who am I, and what do we all know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from symadj.service.contract.states import ReasonCode
from symadj.workers.distributed.diagnosis import diagnose_rank
from symadj.workers.outcome import DIVERGENCES, Failure

__all__ = ["AttemptFailedError", "DataParallel", "PeerLostError", "Ranks"]

T = TypeVar("T")

_LARGEST_EXCHANGE_BYTES = 25 * 2**20


class PeerLostError(Exception):
    """A collective broke off because another rank is gone."""


class AttemptFailedError(Exception):
    """The run cannot go on; raised by all ranks at the same place, with the same failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Ranks:
    """This process among the ranks of a run, and the collectives between them.

    Works with torch's default process group, or, where there is none, as the only rank. Every method but ``where``
    is a collective: all ranks must call it, and all raise ``PeerLostError`` when one of them has died.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.size = dist.get_world_size() if dist.is_initialized() else 1

    def where(self, **place: Any) -> dict[str, Any]:
        """Return ``place`` with this rank, for the data of a failure."""
        return {"rank": self.rank, **place}

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums of ``values`` over the ranks, in float64 and the same on all of them."""
        if self.size == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64, device=self.device)
        self.add_up(vector)
        return [float(value) for value in vector.tolist()]

    def add_up(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by its sum over the ranks."""
        if self.size == 1:
            return
        try:
            dist.all_reduce(tensor)
        except RuntimeError as error:
            raise PeerLostError(f"rank {self.rank} lost a peer in all_reduce: {error}") from error

    def take_from_first(self, tensor: torch.Tensor) -> None:
        """Replace ``tensor`` by that of rank 0, which has the same shape."""
        sent = tensor.clone(memory_format=torch.contiguous_format)
        try:
            dist.broadcast(sent, 0)
        except RuntimeError as error:
            raise PeerLostError(f"rank {self.rank} lost a peer in broadcast: {error}") from error
        tensor.copy_(sent)

    def gather(self, value: T) -> list[T]:
        """Return every rank's ``value`` (picklable), in the order of the ranks."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise PeerLostError(f"rank {self.rank} lost a peer in all_gather: {error}") from error
        return values

    def agree(self, failure: Failure | None) -> None:
        """Go on if no rank has a failure.

        Raises:
            AttemptFailedError: with the failure of the first rank that has one.
        """
        (failed,) = self.sum([failure is not None])
        if failed:
            raise AttemptFailedError(self.first(failure))

    def first(self, failure: Failure | None) -> Failure:
        """Return the failure of the first rank that has one, the most serious kind first: one that is not a divergence.

        Called once all know that there is one.
        """
        known = [failure for failure in self.gather(failure) if failure is not None]
        return min(known, key=lambda failure: failure.reason in DIVERGENCES)

    def together(self, work: Callable[[], T], **place: Any) -> T:
        """Return this rank's ``work()``, which holds no collective, when it succeeded on all ranks.

        Raises:
            AttemptFailedError: it failed on a rank; reported with ``place``.
        """
        failure, result = None, None
        try:
            result = work()
        except Exception as error:
            failure = diagnose_rank(error, self.where(**place))
        self.agree(failure)
        return result  # type: ignore[return-value]


class DataParallel:
    """A model that all ranks train: with the same weights at the start, and by the same gradient at every step.

    torch's DDP exchanges gradients within backward. A rank that fails there (out of memory, a solver that gives up)
    would leave the others waiting in a collective that never completes. Here, the ranks first tell each other that all
    went well. Nothing is lost by it: a flow's gradients come out of the last backward solve together, so that there is
    hardly any computation left to hide the exchange behind. Besides, DDP loads torch's compiler, 66 MiB in each rank.

    The sum over more than two ranks rounds by its place in the buffer, and is made in the order of the parameters. So a
    run that goes on from a checkpoint makes the bits of one that was never interrupted.

    Args:
        model: takes rank 0's parameters and buffers, in place; a collective.
        ranks: that train it.

    Raises:
        AttemptFailedError: the model of another rank has other shapes than that of rank 0.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if ranks.size == 1:
            return
        tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
        first, *others = ranks.gather([tuple(tensor.shape) for tensor in tensors])
        for rank, shapes in enumerate(others, 1):
            if shapes != first:
                message = f"the flow has other parameters on rank {rank} than on rank 0: {shapes}, not {first}"
                advice = "install the same release of the field's package on every node"
                raise AttemptFailedError(Failure(ReasonCode.PLUGIN_ERROR, message, {"rank": rank, "advice": advice}))
        for tensor in tensors:
            ranks.take_from_first(tensor)

    def average_gradients(self) -> None:
        """Average the gradients of the last backward over the ranks; a collective.

        A parameter that has none on a rank counts as one whose gradient is zero there. One that has none on any rank
        keeps none: optimisers leave it as it is, as they do on one rank, where a zero would let its weights decay.
        """
        if self._ranks.size == 1:
            return
        unused = [place for place, parameter in enumerate(self._parameters) if parameter.grad is None]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        # Of each parameter, the share of the ranks that have a gradient; read by those that lack one alone.
        shares = torch.ones(len(gradients), device=self._ranks.device)
        shares[unused] = 0
        for tensors in _pieces([shares, *gradients]):
            piece = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._ranks.add_up(piece)
            piece /= self._ranks.size
            parts = torch.split(piece, [tensor.numel() for tensor in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))
        if unused:
            anywhere = (shares > 0).tolist()  # one read of a device
            for place in unused:
                self._parameters[place].grad = gradients[place] if anywhere[place] else None


def _pieces(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield neighbours that are small enough together to be copied into one buffer."""
    piece: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if piece and size + tensor.nbytes > _LARGEST_EXCHANGE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(tensor)
        size += tensor.nbytes
    if piece:
        yield piece
