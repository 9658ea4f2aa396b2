"""Multiscale flows of images (Dinh et al., Real NVP, ICLR 2017; Grathwohl et al., FFJORD, ICLR 2019).

Squeezing, which makes four channels of the 2 x 2 pixels of one, and factoring out channels move no value: they only
choose which of the D entries of the state the next blocks move, and where these stand in the image that their fields
see. So a multiscale flow is a `Flow` whose blocks each move a part of the state, and z is laid out as x is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symadj_core.flows.block import Block
from symadj_core.flows.cnf import Flow


class PartialBlock(Block):
    """A block that moves some of the state's entries and leaves the others as they are.

    Args:
        field: of the d entries moved.
        entries: [d] int64, their numbers among the D of the state, each once, in the order in which the field takes
            them.
        options: as for `Block`.

    Raises:
        ValueError: as `Block`; entries that are not such numbers; a field or a divergence for another number of them.
    """

    entries: Tensor

    def __init__(self, field: nn.Module, entries: Tensor, **options: Any) -> None:
        super().__init__(field, **options)
        if entries.dtype != torch.int64 or entries.dim() != 1 or len(set(entries.tolist())) < len(entries):
            raise ValueError(f"entries must be [d] int64, each once, not {list(entries.shape)} {entries.dtype}")
        super().check(len(entries))
        # They follow from the flow's shape: no file of weights needs them.
        self.register_buffer("entries", entries, persistent=False)

    def check(self, dim: int) -> None:
        low, high = int(self.entries.min()), int(self.entries.max())
        if low < 0 or high >= dim:
            raise ValueError(f"entries must be 0 to {dim - 1}, those of a state of {dim}, not {low} to {high}")
        super().check(len(self.entries))

    def part(self, y: Tensor) -> Tensor:
        return y[..., self.entries]

    def with_part(self, y: Tensor, part: Tensor) -> Tensor:
        return y.index_copy(-1, self.entries, part)


def scales(shape: tuple[int, int, int], levels: int) -> list[Tensor]:
    """The images that the blocks of a multiscale flow see, from data to base.

    On each level but the last the image is seen as it is, then squeezed, and then the second half of its channels is
    left unchanged from there on; the last level sees it as it is.

    Args:
        shape: (C, H, W) of the data.
        levels: how many.

    Returns:
        2 levels - 1 tensors [c, h, w] int64: which entry of the flat row [C H W] stands where.

    Raises:
        ValueError: a size is below 1, or height and width can't be halved levels - 1 times.
    """
    channels, height, width = shape
    if min(*shape, levels) < 1:
        raise ValueError(f"sizes must be at least 1: shape {tuple(shape)}, levels {levels}")
    halvings = levels - 1
    if height % 2**halvings or width % 2**halvings:
        most = 1
        while height % 2**most == 0 and width % 2**most == 0:
            most += 1
        raise ValueError(
            f"images of {height} x {width} can't be halved {halvings} times, as levels {levels} asks for: take at most "
            f"levels {most}, or pad them to multiples of {2**halvings}"
        )
    image = torch.arange(channels * height * width).view(channels, height, width)
    seen = [image]
    for _ in range(halvings):
        image = F.pixel_unshuffle(image, 2)
        seen.append(image)
        image = image[: len(image) // 2]
        seen.append(image)
    return seen


def multiscale_flow(
    shape: tuple[int, int, int],
    make_field: Callable[[tuple[int, int, int]], nn.Module],
    *,
    levels: int = 3,
    blocks: int = 2,
    **options: Any,
) -> Flow:
    """A flow of images, its rows flat.

    Args:
        shape: (C, H, W) of the image in a row, D = C H W.
        make_field: the field of a block for images of the shape (c, h, w) that it is given, e.g. `ConvField`.
        levels: of `scales`.
        blocks: for each of its images, so that there are blocks (2 levels - 1) in all.
        options: of every `Block`.

    Raises:
        ValueError: as `scales` and `Block`, or blocks is below 1.
    """
    stack = [
        PartialBlock(make_field((image.shape[0], image.shape[1], image.shape[2])), image.flatten(), **options)
        for image in scales(shape, levels)
        for _ in range(blocks)
    ]
    channels, height, width = shape
    return Flow(stack, channels * height * width)
