"""What the pictures share: canvas, colours, PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DATA", "GREY", "SAMPLES", "figure_of", "plain", "png"]

DATA, SAMPLES, GREY = "#2b6cb0", "#dd6b20", "#555555"


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure, in inches."""
    # Without pyplot: no global state, no display, and safe beside other threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Give ``axes`` a light grid and no frame."""
    axes.grid(alpha=0.25, lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
