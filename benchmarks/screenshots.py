"""The pictures of the page in README and docs/page.md (`make screenshots`), of small trainings on a service of its own.

With --data the trainings stay there, and are not repeated by the next call.
"""

from __future__ import annotations

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.browser import chromium
from benchmarks.load import service
from symadj.api.client import Client

COLOURS = 64
WIDTHS = {1200: "", 420: "_narrow"}
MOST_HEIGHT = {1200: 1700, 420: 1500}
PATIENCE_SECONDS = 600

TOY: dict[str, Any] = {
    "data": {"kind": "toy", "name": "moons", "rows": 5000, "batch_size": 250},
    "flow": {"kind": "cnf", "blocks": 1, "field": {"kind": "mlp", "hidden": [32, 32]}},
    "solver": {"kind": "adaptive", "method": "dopri5", "rtol": 1e-3, "atol": 1e-4},
    "optimizer": {"kind": "adam", "learning_rate": 0.01},
    "evaluation": {"mixture_components": 3, "two_sample_rows": 500},
    "stop": {"kind": "steps", "max_steps": 300},
    "resources": {"kind": "cpu", "workers": 1},
}
COMPARED = ({"kind": "symplectic"}, {"kind": "backprop"})
SAMPLED = TOY | {"name": "checkerboard", "data": TOY["data"] | {"name": "checkerboard"}, "labels": {"project": "toys"}}
RUNNING = TOY | {
    "name": "cytometry",
    "labels": {"project": "cells"},
    "data": {"kind": "builtin", "name": "flow_cytometry", "batch_size": 250},
    "evaluation": {"validate_every_steps": 50, "validation_rows": 500},
    "stop": {"kind": "steps", "max_steps": 20_000},
    "resources": {"kind": "cpu", "workers": 1, "memory_budget": "1GiB"},
}
SWEEP: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "examples" / "sweep.yaml").read_text()) | {
    "name": "two moons"
}
WAITING = TOY | {"name": "digits", "data": {"kind": "builtin", "name": "digits"}}
# What the page shows once it has all that it asks for at first.
JOBS = "document.querySelectorAll('tbody tr').length >= 5"
TRIALS = "document.querySelectorAll('tbody tr').length"
CURVES = (
    "document.querySelectorAll('.charts figcaption').length >= 5 && "
    "[...document.querySelectorAll('.charts figcaption')].every(e => e.textContent.includes('least'))"
)
DRAW = "[...document.querySelectorAll('button')].find(e => e.textContent === 'Draw a sample').click()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--data", type=Path, help="folder of the service; default: one that is removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="symadj-page-") as folder:
        data = (options.data or Path(folder)).resolve()
        with service(data, None) as url, Client(url) as client, chromium() as browser:
            known = {job.name: job.id for job in client.jobs().items}
            ended = [known[name] for name in known if name.startswith("moons ")]
            ended = ended or [item.job for item in client.compare(TOY | {"name": "moons"}, COMPARED).gradients]
            sweep = next((sweep.id for sweep in client.sweeps().items), None) or client.submit_sweep(SWEEP).id
            sampled = known.get(SAMPLED["name"]) or client.submit(SAMPLED).id
            for job in (*ended, sampled):
                client.wait(job)
            while client.sweep(sweep).state == "running":
                time.sleep(1.0)
            # The last: the first of them takes the only CPU for as long as the pictures take.
            running, _ = (known.get(spec["name"]) or client.submit(spec).id for spec in (RUNNING, WAITING))
            shots = Shots(browser, url, options.out)
            going = "document.querySelector('.state').textContent === 'running'"
            shots.when(f"#/jobs/{running}", f"{CURVES} && {going} && document.querySelector('progress').value >= 300")
            shots.take("jobs", "#/jobs", JOBS)
            shots.take("job", f"#/jobs/{running}", CURVES)
            shots.take(
                "compare",
                f"#/compare?{urlencode([('job', job) for job in ended])}",
                "document.querySelector('.charts figcaption')?.textContent.includes('least')",
            )
            shots.take("sweep", f"#/sweeps/{sweep}", f"{TRIALS} >= {SWEEP['trials']}")
            shots.take("sample", f"#/jobs/{sampled}", CURVES, of_section="Sample")
            browser.execute_cdp_cmd(
                "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            )
            shots.take("job_dark", f"#/jobs/{running}", CURVES, widths=(1200,))


class Shots:
    """Takes pictures of views of the page."""

    def __init__(self, browser: Chrome, url: str, target: Path) -> None:
        self._browser, self._url, self._target = browser, url, target

    def when(self, view: str, shown: str) -> None:
        """Open a view and wait until an expression of JavaScript holds."""
        self._browser.get("about:blank")
        self._browser.get(f"{self._url}/{view}")
        self._until(shown)

    def take(
        self, name: str, view: str, shown: str, *, of_section: str = "", widths: tuple[int, ...] = tuple(WIDTHS)
    ) -> None:
        """Write ``page_NAME.png`` for each width: of the top of a view, or of its section of samples."""
        for width in widths:
            self._browser.set_window_size(width, 900)
            self.when(view, shown)
            box = self._box(of_section) if of_section else self._whole(width)
            clip = {"format": "png", "captureBeyondViewport": True, "clip": box | {"scale": 1}}
            # The charts have followed the width, and the lines are drawn, in the next picture of the browser.
            self._browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            picture = Image.open(io.BytesIO(_decoded(self._browser.execute_cdp_cmd("Page.captureScreenshot", clip))))
            file = self._target / f"page_{name}{WIDTHS[width]}.png"
            picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
            print(f"{file}: {picture.width} x {picture.height}, {file.stat().st_size:,} bytes", flush=True)

    def _whole(self, width: int) -> dict[str, float]:
        height = self._browser.execute_script("return document.documentElement.scrollHeight")
        return {"x": 0, "y": 0, "width": width, "height": min(height, MOST_HEIGHT[width])}

    def _box(self, title: str) -> dict[str, float]:
        summary = f"[...document.querySelectorAll('summary')].find(e => e.textContent === '{title}')"
        self._browser.execute_script(f"{summary}.click()")
        self._until("document.querySelector('.sample')")
        self._browser.execute_script(DRAW)
        self._until("document.body.innerText.includes('lie elsewhere')")
        box: dict[str, float] = self._browser.execute_script(
            f"const r = {summary}.parentElement.getBoundingClientRect();"
            "return {x: 0, y: r.y + scrollY, width: innerWidth, height: r.height}"
        )
        return box

    def _until(self, shown: str) -> None:
        WebDriverWait(self._browser, PATIENCE_SECONDS, poll_frequency=0.2).until(
            lambda browser: browser.execute_script(f"return Boolean({shown})"), shown
        )


def _decoded(answer: dict[str, str]) -> bytes:
    return base64.b64decode(answer["data"])


if __name__ == "__main__":
    main()
