"""The pictures of docs/paper.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.paper.page import Measured

__all__ = ["draw"]

EXACT_FLOOR = 1e-17


def draw(found: Measured, folder: Path) -> dict[str, str]:
    """Draw all pictures into a folder; return their file names: "memory", "tolerances", "physics"."""
    names = {"memory": "paper_memory.png", "tolerances": "paper_tolerances.png", "physics": "paper_physics.png"}
    _memory(found, folder / names["memory"])
    _tolerances(found, folder / names["tolerances"])
    _physics(found, folder / names["physics"])
    return names


def _memory(found: Measured, target: Path) -> None:
    figure, axes = plt.subplots(
        1, len(found.by_steps), figsize=(12, 3.4), layout="constrained", sharey=True, squeeze=False
    )
    for place, (solver, growths) in zip(axes[0], found.by_steps.items(), strict=True):
        for growth in growths:
            mebibytes = [peak / 2**20 for peak in growth.peaks]
            # It lies on backprop's line where there is one block.
            line = "o--" if growth.label == "onecheckpoint" else "o-"
            place.plot(growth.counts, mebibytes, line, label=growth.label, markersize=3)
        place.set(title=solver, xlabel="steps N", xscale="log", yscale="log")
        place.set_xticks(growths[0].counts, [str(n) for n in growths[0].counts])
        place.minorticks_off()
        place.grid(alpha=0.3)
    axes[0][0].set_ylabel("peak of live tensors, MiB")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _tolerances(found: Measured, target: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    rtols = [float(row.setting) for row in found.by_tolerance]
    for label in found.by_tolerance[0].of:
        values = [max(row.of[label], EXACT_FLOOR) for row in found.by_tolerance]
        axes.plot(rtols, values, "o-", label=label, markersize=3)
    axes.set(xscale="log", yscale="log", xlabel="rtol", ylabel="distance from backprop's gradient")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    figure.savefig(target, dpi=100)
    plt.close(figure)


def _physics(found: Measured, target: Path) -> None:
    figure, axes = plt.subplots(len(found.studies), 3, figsize=(10, 5), layout="constrained", squeeze=False)
    for row, study in zip(axes, found.studies, strict=True):
        extent = (0.0, study.pde.length, 0.0, study.pde.interval * (len(study.truth) - 1))
        low, high = float(study.truth.min()), float(study.truth.max())
        error = (study.rollout - study.truth).abs()
        pictures = (
            ("reference", study.truth, low, high),
            ("learnt", study.rollout, low, high),
            ("|difference|", error, 0.0, None),
        )
        for place, (title, values, least, most) in zip(row, pictures, strict=True):
            image = place.imshow(
                values.numpy(), origin="lower", aspect="auto", extent=extent, vmin=least, vmax=most, cmap="viridis"
            )
            place.set(title=f"{study.pde.name}, {title}", xlabel="x", ylabel="t")
            figure.colorbar(image, ax=place)
    figure.savefig(target, dpi=90)
    plt.close(figure)
