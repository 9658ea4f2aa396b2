"""Images of the data and of the flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from symadj.workers.plots.figures import figure_of, png, write

__all__ = ["draw_image_paths", "draw_images", "grey_range"]

Rows = NDArray[np.float64]
Shape = tuple[int, int, int]

_SIDE = 8


def draw_images(data: Rows, samples: Rows, shape: Shape, levels: int | None, title: str) -> bytes:
    """Draw up to 64 images of the data and as many samples, each in a square; return a PNG.

    Args:
        data, samples: [n, dim] and [m, dim] in original units.
        shape: (channels, height, width), channels 1 or 3 (of others, the first is drawn).
        levels: number of values that a pixel can have, from 0 on; None: the range of the data is drawn.
        title: above the picture.
    """
    low, high = grey_range(data, levels)
    lines = -(-min(max(len(data), len(samples)), _SIDE**2) // _SIDE)
    figure = figure_of(9.2, 0.7 + 4.4 * lines * (shape[1] + 1) / (_SIDE * (shape[2] + 1)))
    for axes, rows, name in zip(
        figure.subplots(1, 2, gridspec_kw={"wspace": 0.05}), (data, samples), ("test data", "samples"), strict=True
    ):
        axes.imshow(_tiled((rows[: _SIDE**2] - low) / (high - low), shape, _SIDE), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_axis_off()
    write(figure.suptitle, title, fontsize=11, x=0.01, ha="left")
    return png(figure)


def draw_image_paths(paths: Rows, times: Sequence[float], shape: Shape, grey: tuple[float, float], title: str) -> bytes:
    """Draw the trajectories of images from base to data, one in each row of the picture; return a PNG.

    Args:
        paths: [T, n, dim] in original units, base first.
        times: the flow's time of each, [T].
        shape: as for ``draw_images``.
        grey: the values drawn black and white.
        title: above the picture.
    """
    low, high = grey
    steps, count, dim = paths.shape
    figure = figure_of(7.0, 1.0 + 6.6 * count * (shape[1] + 1) / (steps * (shape[2] + 1)))
    axes = figure.subplots()
    images = paths.transpose(1, 0, 2).reshape(-1, dim)
    axes.imshow(_tiled((images - low) / (high - low), shape, steps), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([(shape[2] + 1) * (n + 0.5) - 1 for n in range(steps)], [f"{t:.2f}" for t in times], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("time t of the flow, base to data", fontsize=9)
    write(figure.suptitle, title, fontsize=11, x=0.01, ha="left")
    return png(figure)


def grey_range(data: Rows, levels: int | None) -> tuple[float, float]:
    """Return the values of black and white: those of the ``levels`` from 0 on, or else the range of ``data``."""
    low, high = (0.0, levels - 1.0) if levels is not None else (float(data.min()), float(data.max()))
    return low, max(high, low + 1e-9)


def _tiled(images: Rows, shape: Shape, columns: int) -> Rows:
    """Return images [n, dim] side by side as [height, width] or [height, width, 3], white between and beyond them."""
    channels, height, width = shape
    kept = 3 if channels == 3 else 1
    sheet = np.ones((-(-len(images) // columns), height + 1, columns, width + 1, kept))
    for place, image in enumerate(images.clip(0, 1).reshape(-1, channels, height, width)):
        row, column = divmod(place, columns)
        sheet[row, :height, column, :width] = image[:kept].transpose(1, 2, 0)
    tiled = sheet.reshape(len(sheet) * (height + 1), columns * (width + 1), kept)[:-1, :-1]
    return tiled if kept == 3 else tiled[..., 0]
