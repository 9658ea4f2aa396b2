"""Pictures of a run, as PNG, and what others draw of its data."""

from symadj.workers.plots.calibration import draw_coverage, draw_ranks
from symadj.workers.plots.curve import draw_curve
from symadj.workers.plots.density import draw_density
from symadj.workers.plots.histograms import histograms
from symadj.workers.plots.images import draw_image_paths, draw_images, grey_range
from symadj.workers.plots.pairs import draw_pairs
from symadj.workers.plots.paths import draw_steps, draw_trajectories
from symadj.workers.plots.units import TRANSFORMED, Units, original

__all__ = [
    "TRANSFORMED",
    "Units",
    "draw_coverage",
    "draw_curve",
    "draw_density",
    "draw_image_paths",
    "draw_images",
    "draw_pairs",
    "draw_ranks",
    "draw_steps",
    "draw_trajectories",
    "grey_range",
    "histograms",
    "original",
]
