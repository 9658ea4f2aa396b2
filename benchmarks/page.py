"""The page beside MLflow's (`make bench-page`): milliseconds until something is painted, and until it can be read.

Ours has 10,000 jobs, the newest of them with 1,000,000 steps of 10 metrics; MLflow's has 100 runs, the newest with
10,000 steps of 10 metrics. Both servers run at once, and one browser opens their pages in turn. The first visit is told
by itself: caches are cold, those of our server too. With --data what was made stays there for the next call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from selenium.webdriver import Chrome
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.browser import chromium
from benchmarks.servers import answering, mlflow_server
from symadj.service.contract.records import StepRecord
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.states import JobState
from symadj.service.lifecycle import requests
from symadj.service.store import Database, jobs, metrics
from symadj.service.store.tables import Job

SPEC = JobSpec.model_validate({"name": "long", "data": {"kind": "toy", "name": "moons"}})
# The page shows these first, of the metrics that a job has.
OURS = ["loss", "nll", "nfe_forward", "nfe_backward", "step_seconds", "m5", "m6", "m7", "m8", "m9"]
WITH_FIGURES = 100  # of the newest jobs, which a list may show
STEPS_AT_ONCE = 10_000
PATIENCE_SECONDS = 300
WINDOW = (1200, 900)

ROWS = "document.querySelectorAll('tbody tr').length >= 50"
CURVE = "[...document.querySelectorAll('.charts figcaption')].some(e => e.textContent.includes('least'))"
CURVES = (
    "document.querySelector('.charts figcaption') && "
    "[...document.querySelectorAll('.charts figcaption')].every(e => e.textContent.includes('least'))"
)
THEIR_ROWS = "['run-{runs}', 'run-{last}'].every(name => document.body?.innerText.includes(name))"
THEIR_CURVE = "document.querySelector('.js-plotly-plot .scatterlayer .trace path')"
# Notes the moment at which the page shows what is looked for, as the browser draws it.
LOOK = """(() => {{
  const look = () => {{
    if ({shown}) window.shownAt = performance.now();
    else requestAnimationFrame(look);
  }};
  look();
}})();"""


@dataclass
class View:
    """A page, when it can be read, and the milliseconds of each visit until its first paint and until then."""

    name: str
    url: str
    shown: str
    painted: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)

    def visit(self, browser: Chrome) -> None:
        """Open it and note both.

        Raises:
            TimeoutException: it does not show what it must.
        """
        browser.get("about:blank")
        look = browser.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": LOOK.format(shown=self.shown)}
        )
        browser.get(self.url)
        wait = WebDriverWait(browser, PATIENCE_SECONDS, poll_frequency=0.1)
        self.read.append(wait.until(lambda at: at.execute_script("return window.shownAt"), self.name))
        self.painted.append(
            browser.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", look)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mlflow", type=Path, required=True, help="the command `mlflow` of another environment")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=100, help="of MLflow")
    parser.add_argument("--their-steps", type=int, default=10_000)
    parser.add_argument("--visits", type=int, default=7, help="of each page, after the first")
    parser.add_argument("--data", type=Path, help="folder of both servers; default: one that is removed")
    options = parser.parse_args()
    with ExitStack() as stack:
        data = (options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="symadj-page-")))).resolve()
        ours, theirs = data / "ours", data / "theirs"
        for folder in (ours, theirs):
            folder.mkdir(parents=True, exist_ok=True)
        url = stack.enter_context(our_server(ours))
        job = filled(ours, options.jobs, options.steps)
        their_url = stack.enter_context(mlflow_server(theirs, options.mlflow))
        experiment, run = their_runs(theirs, options.mlflow, their_url, options.runs, options.their_steps)
        their_page = f"{their_url}/#/experiments/{experiment}/runs"
        rows = THEIR_ROWS.format(runs=options.runs, last=max(1, options.runs - 10))
        pairs = [
            (View("jobs", f"{url}/#/jobs", ROWS), View("runs", their_page, rows)),
            (
                View("a job, its first curve", f"{url}/#/jobs/{job}", CURVE),
                View("a run, its first curve", f"{their_page}/{run}/model-metrics", THEIR_CURVE),
            ),
            (
                View("a job, all curves that it shows first", f"{url}/#/jobs/{job}", CURVES),
                View("a run, its first curve", f"{their_page}/{run}/model-metrics", THEIR_CURVE),
            ),
        ]
        with chromium() as browser:
            browser.set_window_size(*WINDOW)
            for _ in range(options.visits + 1):
                for pair in pairs:
                    for view in pair:
                        view.visit(browser)
    report(pairs, options)


def report(pairs: list[tuple[View, View]], options: argparse.Namespace) -> None:
    """Print a table, in Markdown."""
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; ours: {options.jobs:,} jobs, {options.steps:,} steps "
        "of "
        f"{len(OURS)} metrics; MLflow: {options.runs} runs, {options.their_steps:,} steps of as many; medians of "
        f"{options.visits} visits after the first, ms\n"
    )
    print("| ours | beside MLflow's | | ours | MLflow | ratio | first visit: ours | MLflow |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for own, other in pairs:
        for what, mine, their in (("painted", own.painted, other.painted), ("shown", own.read, other.read)):
            middle, their_middle = statistics.median(mine[1:]), statistics.median(their[1:])
            print(
                f"| {own.name} | {other.name} | {what} | {middle:.0f} | {their_middle:.0f} | "
                f"{middle / their_middle:.2f} | {mine[0]:.0f} | {their[0]:.0f} |"
            )


@contextmanager
def our_server(data: Path) -> Iterator[str]:
    """Run the API alone; yield its URL."""
    environment = os.environ | {"SYMADJ_DATA": str(data)}
    with answering([sys.executable, "-m", "symadj.api"], "/healthz", environment) as url:
        yield url


def filled(data: Path, count: int, steps: int) -> str:
    """Return the id of the long job; it and the others are made if they are not there."""
    database = Database(f"sqlite:///{data / 'symadj.sqlite'}")
    with closing(database):
        with database.read_session() as session:
            known = session.scalars(sa.select(Job.id).where(Job.name == SPEC.name)).first()
        if known is not None:
            return known
        with database.session() as session:
            first, _ = requests.submit(session, SPEC, owner="local")
            values = {column.key: getattr(first, column.key) for column in sa.inspect(Job).columns}
            values |= {"state": JobState.SUCCEEDED, "attempt": 1}
            others = [values | {"id": f"job-{number:012d}", "name": f"flow {number}"} for number in range(1, count)]
            session.execute(sa.insert(Job), others)
            # The page asks for the curves of one that has begun.
            first.state, first.attempt = JobState.SUCCEEDED, 1
            job_id = first.id
        for item in others[-WITH_FIGURES:]:
            append(database, item["id"], range(1, 2))
        for start in range(1, steps + 1, STEPS_AT_ONCE):
            append(database, job_id, range(start, min(start + STEPS_AT_ONCE, steps + 1)))
        return job_id


def append(database: Database, job_id: str, steps: range) -> None:
    """Store metrics of steps as a run's are stored."""
    with database.session() as session:
        records = [StepRecord(step=step, metrics=dict.fromkeys(OURS, value(step))) for step in steps]
        metrics.append(session, jobs.lock(session, job_id), 1, records)


def value(step: int) -> float:
    """Return what falls, with something like noise."""
    return 1.0 + 1000.0 / (step + 100) + step * 7919 % 101 / 1000.0


def their_runs(data: Path, mlflow: Path, url: str, runs: int, steps: int) -> list[str]:
    """Return the ids of MLflow's experiment and of its long run; they are made if they are not there."""
    note = data / "ids"
    if not note.exists():
        script = Path(__file__).with_name("peers") / "mlflow_runs.py"
        command: list[Any] = [mlflow.with_name("python"), script, url, str(runs), str(steps)]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        note.write_text(made.splitlines()[-1])
    return note.read_text().split()


if __name__ == "__main__":
    main()
