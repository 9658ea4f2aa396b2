"""Pictures of a run, as PNG."""

from workers.plots.curve import draw_curve
from workers.plots.pairs import draw_pairs

__all__ = ["draw_curve", "draw_pairs"]
