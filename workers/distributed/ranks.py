"""The ranks of one run: who am I, and what do we all know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

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
    """torch's DDP around a model, its exchange of gradients held back until the caller asks for it.

    DDP on its own exchanges gradients within backward. A rank that fails there (out of memory, a solver that gives
    up) would leave the others waiting in a collective that never completes. Held back, the ranks first tell each
    other that all went well. Nothing is lost by it here: a flow's gradients come out of the last backward solve
    together, so that there is hardly any computation left to hide the exchange behind.

    It is done in the order of the parameters, whatever buckets DDP has made: it arranges them anew after its first
    step, and a sum over more than two ranks rounds by its place in the buffer. So a run that goes on from a checkpoint
    makes the bits of one that was never interrupted.

    Attributes:
        model: to be called for the forward pass, once a step; with one rank the model itself.
        alone: the model itself, for the parts of a step before the last one: their gradients are added up.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model = self.alone = model
        self._ranks = ranks
        self._parameters = list(model.parameters())
        if ranks.size > 1:
            try:
                ddp = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                # It compares the ranks' parameters as it starts.
                raise PeerLostError(f"rank {ranks.rank} lost a peer as DDP started: {error}") from error
            # A lambda, since DDP compares a hook's annotations as objects, and ours are strings.
            ddp.register_comm_hook(None, lambda _, bucket: _left_as_it_is(bucket.buffer()))
            self.model = ddp

    def average_gradients(self) -> None:
        """Average the gradients of the last backward over the ranks; a collective."""
        if self._ranks.size == 1:
            return
        for gradients in _pieces([p.grad for p in self._parameters if p.grad is not None]):
            piece = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._ranks.add_up(piece)
            piece /= self._ranks.size
            parts = torch.split(piece, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        # A collective that DDP would otherwise call in its second forward pass, which a rank that fails never reaches.
        self.model.reducer._rebuild_buckets()  # type: ignore[operator,union-attr]


def _pieces(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield neighbours that are small enough together to be copied into one buffer."""
    piece: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        if piece and size + gradient.nbytes > _LARGEST_EXCHANGE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(gradient)
        size += gradient.nbytes
    if piece:
        yield piece


def _left_as_it_is(buffer: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(buffer)
    return done
