"""Pictures of awkward data: none of them may end a job, hide what matters or flatter the flow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from symadj.workers.history import History
from symadj.workers.plane_density import PlaneDensity
from symadj.workers.plots import (
    draw_curve,
    draw_density,
    draw_image_paths,
    draw_images,
    draw_pairs,
    draw_steps,
    draw_trajectories,
    original,
)
from symadj.workers.validation import Validation
from symadj_core.transforms import restore_transforms

RNG = np.random.default_rng(0)
NO_FORMULA = r"a$\no formula$"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were made into pictures."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def texts(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def history_of(nlls: list[float], memory_bytes: int | None = 2**20) -> History:
    history = History()
    for nll in nlls:
        history.add({"loss": nll, "nfe_forward": 20.0, "nfe_backward": 18.0}, memory_bytes)
    return history


def test_names_with_dollar_signs_are_written_as_they_are() -> None:
    rows = RNG.standard_normal((50, 2))
    columns = (NO_FORMULA, "2$")
    grid = np.linspace(-3, 3, 20)
    density = PlaneDensity(grid, grid, np.ones((20, 20)))
    steps = {"as in training": (np.array([0.0, 0.5]), np.array([0.5, 0.5]))}
    images = np.zeros((3, 4))
    for picture in (
        draw_pairs(rows, rows, columns, NO_FORMULA),
        draw_density(density, rows, rows, columns, NO_FORMULA),
        draw_trajectories(rows.reshape(5, 10, 2), rows, columns, NO_FORMULA),
        draw_steps(steps, [1.0], NO_FORMULA),
        draw_curve(history_of([2.0, 1.0]), [], NO_FORMULA, 1.0, {}),
        draw_images(images, images, (1, 2, 2), None, NO_FORMULA),
        draw_image_paths(images.reshape(3, 1, 4), [1.0, 0.5, 0.0], (1, 2, 2), (0.0, 1.0), NO_FORMULA),
    ):
        assert Image.open(io.BytesIO(picture)).format == "PNG"


def test_a_column_that_is_constant_in_the_test_rows_is_drawn_in_any_units(drawn: list[Figure]) -> None:
    rows = RNG.standard_normal((2000, 3))
    rows[:, 1] = 3e9
    draw_pairs(rows, RNG.standard_normal((2000, 3)), ("a", "constant", "c"), "title")
    (figure,) = drawn
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert np.isfinite([low, high]).all()
        assert high > low


def test_samples_out_of_view_do_not_make_the_others_look_right(drawn: list[Figure]) -> None:
    """Half of the flow is where the data are and half of it far away: its histogram is half as high."""
    rows = RNG.standard_normal((4000, 1))
    samples = np.concatenate([rows[:2000], rows[2000:] + 100])
    draw_pairs(rows, samples, ("x",), "title")
    (axes,) = drawn[0].axes
    bars = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]
    (outline,) = [patch for patch in axes.patches if isinstance(patch, Polygon)]
    assert sum(bars) == pytest.approx(1.0, abs=0.01)
    assert outline.get_xy()[1::2, 1].sum() == pytest.approx(0.5, abs=0.02)


def test_a_picture_of_a_part_of_the_columns_says_so(drawn: list[Figure]) -> None:
    rows = RNG.standard_normal((50, 12))
    draw_pairs(rows, rows, [f"c{n}" for n in range(12)], "title")
    assert drawn[0].get_suptitle() == "title, first 10 of 12 columns"


def test_a_validation_that_rises_is_in_view_and_a_baseline_far_off_presses_nothing_flat(drawn: list[Figure]) -> None:
    rising = [Validation(step, -5 + step / 100) for step in range(100, 1001, 100)]
    draw_curve(history_of([-5 - n / 1000 for n in range(1000)]), rising, "title", -4.0, {"Gaussian": 900.0})
    axes = drawn[0].axes[0]
    low, high = axes.get_ylim()
    assert low < -6
    assert 4 < high < 20
    assert "Gaussian 900.00" in texts(axes)


@pytest.mark.parametrize(
    ("nlls", "test_nll"), [([], None), ([], float("inf")), ([float("nan")], None), ([1.0, float("inf")], 1.0)]
)
def test_figures_that_are_not_finite_leave_a_picture(nlls: list[float], test_nll: float | None) -> None:
    assert draw_curve(history_of(nlls, memory_bytes=None), [], "title", test_nll, {}).startswith(b"\x89PNG")


def test_the_density_lies_where_its_cells_do(drawn: list[Figure]) -> None:
    middles = np.array([-0.5, 0.5])
    rows, samples = RNG.random((5, 2)), RNG.random((3, 2))
    draw_density(PlaneDensity(middles, middles, np.full((2, 2), 0.25)), rows, samples, ("x", "y"), "title")
    (mesh,) = drawn[0].axes[0].collections
    assert isinstance(mesh, QuadMesh)
    corners = mesh.get_coordinates()
    assert (corners[0, 0].tolist(), corners[-1, -1].tolist()) == ([-1.0, -1.0], [1.0, 1.0])
    assert [axes.get_title(loc="left") for axes in drawn[0].axes[1:3]] == ["3 samples", "3 test rows"]


def test_the_same_data_make_the_same_file_and_no_figure_stays_behind() -> None:
    import matplotlib.pyplot as plt

    rows = RNG.standard_normal((60, 2))
    assert draw_pairs(rows, rows, ("x", "y"), "title") == draw_pairs(rows, rows, ("x", "y"), "title")
    assert plt.get_fignums() == []


def test_images_on_their_way_are_one_a_row_from_base_to_data(drawn: list[Figure]) -> None:
    paths = np.zeros((3, 2, 4))
    paths[-1] = 1.0  # at the end, at t = 0, all white
    draw_image_paths(paths, [1.0, 0.5, 0.0], (1, 2, 2), (0.0, 1.0), "title")
    (axes,) = drawn[0].axes
    (sheet,) = (image.get_array() for image in axes.images)
    assert sheet.shape == (5, 8)  # 2 images of 2 x 2 below each other, 3 beside each other, a line between
    assert sheet[:2, 6:].min() == sheet[3:, 6:].min() == 1
    assert sheet[:2, :2].max() == sheet[3:, 3:5].max() == 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1.00", "0.50", "0.00"]


STANDARDISE = {"kind": "standardise", "mean": [40.0, 30_000.0], "std": [10.0, 8_000.0]}
ARCSINH = {"kind": "arcsinh", "scale": 150.0}
CHAINS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "standardise": [STANDARDISE],
    "arcsinh of all": [ARCSINH, {"kind": "standardise", "mean": [1.0, 3.0], "std": [0.5, 2.0]}],
    "arcsinh of one": [ARCSINH | {"columns": [1]}, {"kind": "standardise", "mean": [40.0, 3.0], "std": [10.0, 2.0]}],
    "logit": [{"kind": "logit", "alpha": 0.01}],
    "dequantise": [{"kind": "dequantise", "levels": 256}, {"kind": "logit", "alpha": 0.01}],
}
# Those whose axes are spaced by arcsinh.
SPACED = {"arcsinh of all": [0, 1], "arcsinh of one": [1]}


def gaussian() -> PlaneDensity:
    grid = np.linspace(-5, 5, 120)
    return PlaneDensity(grid, grid, np.exp(-0.5 * (grid[:, None] ** 2 + grid**2)) / (2 * np.pi))


@pytest.mark.parametrize("chain", CHAINS)
def test_a_density_in_the_units_of_the_data_still_integrates_to_one(chain: str) -> None:
    *edges, values = original(restore_transforms(CHAINS[chain]), 2).plane(gaussian())
    for column in SPACED.get(chain, []):
        edges[column] = np.sinh(edges[column]) * 150.0
    sides = [np.diff(edge) for edge in edges]
    assert min(side.min() for side in sides) > 0, "nothing is rounded to whole numbers"
    areas = sides[0][:, None] * sides[1]
    assert (areas * values).sum() == pytest.approx(1.0, abs=2e-3)


def test_a_density_in_the_units_of_the_data_is_that_of_the_data() -> None:
    x, y, values = original(restore_transforms([STANDARDISE]), 2).plane(gaussian())
    middles = [(edges[1:] + edges[:-1]) / 2 for edges in (x, y)]
    known = [
        np.exp(-0.5 * ((at - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        for at, mean, std in zip(middles, STANDARDISE["mean"], STANDARDISE["std"], strict=True)
    ]
    np.testing.assert_allclose(values, known[0][:, None] * known[1], rtol=1e-9)


def test_rows_samples_and_paths_are_drawn_where_the_data_are_and_the_picture_says_so(drawn: list[Figure]) -> None:
    units = original(restore_transforms([STANDARDISE]), 2)
    rows, columns = RNG.standard_normal((2000, 2)), ("age", "income")
    draw_pairs(rows, rows, columns, "title", units)
    draw_density(gaussian(), rows, rows, columns, "title", units)
    draw_trajectories(rows.reshape(10, 200, 2), rows, columns, "title", units)
    limits = [axes.get_ylim() for axes in (drawn[0].axes[1], drawn[1].axes[0], drawn[2].axes[0])]
    for low, high in limits:
        assert -20_000 < low < 15_000
        assert 45_000 < high < 90_000
    legend = drawn[0].legends[0].get_title().get_text()
    assert [legend, drawn[1].get_supxlabel(), drawn[2].get_supxlabel()] == ["axes in the units of the data"] * 3
    drawn.clear()
    draw_trajectories(rows.reshape(10, 200, 2), rows, columns, "title")
    assert drawn[0].get_supxlabel() == "axes in transformed units, as the flow sees the data"
    assert drawn[0].axes[0].get_ylim()[1] < 10


def test_an_axis_spaced_by_arcsinh_has_the_values_of_the_data_beside_it(drawn: list[Figure]) -> None:
    units = original(restore_transforms(CHAINS["arcsinh of one"]), 2)
    rows = RNG.standard_normal((500, 2))
    draw_trajectories(rows.reshape(5, 100, 2), rows, ("linear", "spaced"), "title", units)
    axis = drawn[0].axes[0].yaxis
    places, values = axis.get_ticklocs(), [float(label.get_text()) for label in axis.get_ticklabels()]
    assert len(values) >= 3
    np.testing.assert_allclose(np.sinh(places) * 150.0, values, rtol=1e-6, atol=1e-6)
    assert max(map(abs, values)) >= 1000
    assert 0 < drawn[0].axes[0].get_xlim()[1] < 100, "the other axis is linear"
    assert "spaced by arcsinh" in drawn[0].get_supxlabel()


@pytest.mark.parametrize(("chain", "count"), [(chain, 50) for chain in CHAINS] + [(next(iter(CHAINS)), 2000)])
def test_samples_far_beyond_all_data_end_no_picture(chain: str, count: int) -> None:
    units = original(restore_transforms(CHAINS[chain]), 2)
    rows = RNG.standard_normal((count, 2))
    samples = rows * 10.0 ** RNG.integers(0, 6, count)[:, None]
    columns = ("x", "y")
    assert draw_pairs(rows, samples, columns, "title", units).startswith(b"\x89PNG")
    assert draw_density(gaussian(), rows, samples, columns, "title", units).startswith(b"\x89PNG")
    assert draw_trajectories(samples.reshape(10, -1, 2), rows, columns, "title", units).startswith(b"\x89PNG")
