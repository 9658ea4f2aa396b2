"""Images of the data and of the flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.plots.figures import figure_of, png

__all__ = ["draw_images"]

Rows = NDArray[np.float64]

_SIDE = 8


def draw_images(data: Rows, samples: Rows, shape: tuple[int, int, int], levels: int | None, title: str) -> bytes:
    """Draw up to 64 images of the data and as many samples, each in a square; return a PNG.

    Args:
        data, samples: [n, dim] and [m, dim] in original units.
        shape: (channels, height, width), channels 1 or 3 (of others, the first is drawn).
        levels: that a value can have, from 0 on; None: the range is the data's.
        title: above the picture.
    """
    low, high = (0.0, levels - 1.0) if levels is not None else (float(data.min()), float(data.max()))
    figure = figure_of(9.0, 4.9)
    for axes, rows, name in zip(figure.subplots(1, 2), (data, samples), ("test data", "samples"), strict=True):
        axes.imshow(_tiled((rows[: _SIDE**2] - low) / (high - low), shape), cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{title}: {name}", fontsize=10, loc="left")
        axes.set_axis_off()
    return png(figure)


def _tiled(images: Rows, shape: tuple[int, int, int]) -> Rows:
    """Return images [n, dim] side by side as [height, width] or [height, width, 3], white between and beyond them."""
    channels, height, width = shape
    kept = 3 if channels == 3 else 1
    sheet = np.ones((_SIDE, height + 1, _SIDE, width + 1, kept))
    for place, image in enumerate(images.clip(0, 1).reshape(-1, channels, height, width)):
        row, column = divmod(place, _SIDE)
        sheet[row, :height, column, :width] = image[:kept].transpose(1, 2, 0)
    tiled = sheet.reshape(_SIDE * (height + 1), _SIDE * (width + 1), kept)[:-1, :-1]
    return tiled if kept == 3 else tiled[..., 0]
