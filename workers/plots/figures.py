"""Canvas, colours, texts and PNG for all pictures."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DATA", "GREY", "PRETRAINING", "SAMPLES", "TEST", "figure_of", "plain", "png", "say_below", "short", "write"]

# Distinct for people who can't see red or green; where two are drawn as lines, their styles differ too, for prints
# in grey.
DATA, SAMPLES, GREY = "#2b6cb0", "#dd6b20", "#555555"
TEST, PRETRAINING = "#2f855a", "#b83280"


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


def short(text: str, most: int) -> str:
    """Return ``text``, cut where it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def write(put: Callable[..., Any], text: str, most: int = 90, **style: Any) -> None:
    """Write a user's text as it is, by ``put``, a method like ``Axes.set_xlabel``.

    A name may contain dollar signs; matplotlib would read the text between two of them as a formula, or fail.
    """
    put(short(text, most), parse_math=False, **style)


def say_below(figure: Figure, text: str) -> None:
    """Write ``text`` below all axes."""
    figure.supxlabel(text, fontsize=8, x=0.01, ha="left")


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
