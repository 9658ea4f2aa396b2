"""Pictures of a run, as PNG."""

from workers.plots.curve import draw_curve
from workers.plots.density import draw_density
from workers.plots.images import draw_image_paths, draw_images, grey_range
from workers.plots.pairs import draw_pairs
from workers.plots.paths import draw_steps, draw_trajectories

__all__ = [
    "draw_curve",
    "draw_density",
    "draw_image_paths",
    "draw_images",
    "draw_pairs",
    "draw_steps",
    "draw_trajectories",
    "grey_range",
]
