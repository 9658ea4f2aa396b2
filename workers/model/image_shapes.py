"""Whether data are images that a multiscale flow can take. Needs no torch, so that it is checked before any worker."""

from __future__ import annotations

from symadj.service.contract.spec.flow import Flow, MultiscaleFlow
from symadj.workers.data import DataError

__all__ = ["check_images", "image_shape"]


def check_images(flow: Flow, shape: tuple[int, int, int] | None) -> None:
    """Refuse data that ``flow`` can't take because they are not images, or are images of another size.

    Args:
        flow: of the spec.
        shape: (channels, height, width) of the image in a row, or None.

    Raises:
        DataError: says which sizes there are and what to do.
    """
    if isinstance(flow, MultiscaleFlow):
        image_shape(flow, shape)


def image_shape(flow: MultiscaleFlow, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return ``shape``, if ``flow`` can take such images; refuse others as ``check_images`` does."""
    if shape is None:
        raise DataError(
            "the rows are not images, which flow.kind multiscale needs: give an array [rows, height, width] or [rows, "
            "channels, height, width] (IDX, npy, npz or HDF5), or take flow.kind cnf"
        )
    _, height, width = shape
    halvings = flow.levels - 1
    if height % 2**halvings or width % 2**halvings:
        most = next(n for n in range(1, flow.levels) if height % 2**n or width % 2**n)
        raise DataError(
            f"images of {height} x {width} can't be halved {halvings} times, as flow.levels {flow.levels} asks for: "
            f"take flow.levels {most} at most, or pad the images to multiples of {2**halvings}"
        )
    return shape
