"""From a submit to the first step, beside an earlier build (`make bench-start`).

`symadj serve` of both builds runs side by side, each with an empty folder. By turns each gets a small training of 300
steps, and the next one is submitted when it has ended, so that only one of them has something to do. Told are medians
of: seconds from the request to when the first step is stored, seconds of CPU that all processes of the service took
until then, and what a rank then holds: its resident bytes, and its share of them where processes have pages in common
(Linux's Pss). The earlier build is a commit of this repository, checked out for the time of the benchmark; both run on
the libraries of this environment.

With ``--compose`` (`make bench-start CLUSTER="docker compose"`) they are clusters of containers with two workers: this
build's image ``symadj:local``, as it is, with warm and with cold starts, and one of the earlier build with the same
libraries. One cluster follows the other, a first submit to each does not count, and told is the time to the first step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.servers import checked_out, free_port, serving

ROOT = Path(__file__).resolve().parents[1]
TRAINING = {
    "name": "start",
    "data": {"kind": "toy", "name": "moons", "rows": 2000, "batch_size": 100},
    "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [16]}},
    "solver": {"kind": "fixed", "method": "euler", "steps": 2},
    "stop": {"kind": "steps", "max_steps": 300},
    "evaluation": None,
}
SAMPLE_SECONDS = 0.1
RANK = "RayTrainWorker"
MIB = 2**20
# The earlier build in the image of this one, so that both have the same libraries, at glibc's heap as it was then.
EARLIER_IMAGE = """
FROM symadj:local
USER root
COPY . /earlier
RUN pip uninstall --quiet --yes symadj && pip install --quiet --no-deps --no-build-isolation /earlier
COPY docker/entrypoint docker/healthy /usr/local/bin/
ENV RAY_LD_PRELOAD_ON_WORKERS=0
USER 10001:10001
"""


@dataclass
class Start:
    """One submit.

    Attributes:
        seconds: from the request to the first stored step.
        cpu_seconds: that all processes of the service took meanwhile.
        rank_bytes, rank_share_bytes: resident set of a rank after its first step, and its Pss.
    """

    seconds: float
    cpu_seconds: float
    rank_bytes: int
    rank_share_bytes: int


class _Processes:
    """What the processes of a service take; looks often, since some of them live for a moment only."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._seconds: dict[tuple[int, float], float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.look()

    def look(self) -> float:
        """Return the seconds of CPU of all processes that were ever seen."""
        with suppress(psutil.Error):
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self._seconds[process.pid, process.create_time()] = times.user + times.system
        return sum(self._seconds.values())

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that train."""
        found = []
        for process in self._root.children(recursive=True):
            with suppress(psutil.Error):
                if RANK in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def _first_step(http: httpx.Client, spec: dict[str, object]) -> tuple[str, float]:
    """Submit a training; return the job and the seconds until its first step is stored."""
    began = time.monotonic()
    job: str = http.post("/jobs", json=spec).raise_for_status().json()["id"]
    while not http.get(f"/jobs/{job}/metrics/loss?after_seq=0&wait=10").raise_for_status().json()["points"]:
        state = http.get(f"/jobs/{job}").json()
        if state["failure"]:
            raise RuntimeError(f"{job} failed: {state['failure']}")
    return job, time.monotonic() - began


def _wait_for_success(http: httpx.Client, job: str) -> None:
    while http.get(f"/jobs/{job}").json()["state"] != "succeeded":
        time.sleep(0.2)


class Build:
    """A running service of one build."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=60, trust_env=False)
        self._processes = _Processes(psutil.Process(process.pid))

    def start(self, spec: dict[str, object]) -> Start:
        """Submit a training, and wait until it has ended."""
        cpu_before = self._processes.look()
        job, seconds = _first_step(self._http, spec)
        cpu = self._processes.look() - cpu_before
        held = [process.memory_full_info() for process in self._processes.ranks()]
        _wait_for_success(self._http, job)
        return Start(seconds, cpu, max(one.rss for one in held), max(one.pss for one in held))

    def close(self) -> None:
        """Close the connections."""
        self._processes.close()
        self._http.close()


@contextmanager
def service(tree: Path, data: Path) -> Iterator[Build]:
    """Run ``symadj serve`` of the build in ``tree`` until the block ends."""
    module, function = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["scripts"]["symadj"].split(":")
    # As the command's own script is found in a folder of programs, ours is where its interpreter's are.
    program = f"import sys; sys.argv[0] = 'symadj'; from {module} import {function}; sys.exit({function}())"
    command = [sys.executable, "-c", program, "serve", "--port", "0", "--data", str(data), "--cpus", "2"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    with serving(command, environment, data) as (url, process):
        build = Build(url, process)
        try:
            yield build
        finally:
            build.close()


@contextmanager
def cluster(tree: Path, compose: list[str], **variables: str) -> Iterator[httpx.Client]:
    """Run the containers of the build in ``tree`` until the block ends, with nothing kept; yield its API."""
    address = f"127.0.0.1:{free_port()}"
    environment = os.environ | {"COMPOSE_PROJECT_NAME": "symadj-start", "SYMADJ_PUBLISH": address} | variables

    def run(*arguments: str) -> str:
        done = subprocess.run([*compose, *arguments], cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
        done.check_returncode()
        return done.stdout

    try:
        run("up", "--detach", "--no-build", "--scale", "worker=2")
        headers = {"Authorization": f"Bearer {run('exec', '-T', 'api', 'cat', '/keys/admin').strip()}"}
        with httpx.Client(base_url=f"http://{address}/api/v1", headers=headers, timeout=60, trust_env=False) as http:
            yield http
    finally:
        run("down", "--volumes")


def compare_clusters(earlier: str, submits: int, compose: list[str], spec: dict[str, object]) -> None:
    """Measure the clusters one after the other and print the table."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, checked_out(earlier, Path(folder) / "earlier") as tree:
        image = ["docker", "build", "--quiet", "--tag", f"symadj:{earlier}", "--file", "-", str(tree)]
        subprocess.run(image, input=EARLIER_IMAGE, text=True, check=True, stdout=subprocess.DEVNULL)
        for name, build, variables in (
            (earlier, tree, {"SYMADJ_IMAGE_TAG": earlier}),
            ("this, warm", ROOT, {}),
            ("this, cold", ROOT, {"SYMADJ_WARM_RUNS": "0"}),
        ):
            with cluster(build, compose, **variables) as http:
                for number in range(submits + 1):
                    job, found = _first_step(http, spec)
                    _wait_for_success(http, job)
                    print(f"{number} {name}: {found:.2f} s", file=sys.stderr, flush=True)
                    seconds.setdefault(name, []).append(found)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    print("| build | to the first step, s | relative to the earlier |\n| --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {median:.1f} | {median / medians[earlier]:.2f} |")


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--earlier", default="6a79a12", help="commit to compare with")
    parser.add_argument("--submits", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--compose", help='of containers: "docker compose", with -f for each file if not only compose.yaml'
    )
    arguments = parser.parse_args()
    spec = TRAINING | {"resources": {"kind": "cpu", "workers": arguments.workers}}
    if arguments.compose:
        compare_clusters(arguments.earlier, arguments.submits, arguments.compose.split(), spec)
    else:
        compare_services(arguments.earlier, arguments.submits, spec)


def compare_services(earlier: str, submits: int, spec: dict[str, object]) -> None:
    """Measure ``symadj serve`` of both builds by turns and print the table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trees = {earlier: stack.enter_context(checked_out(earlier, folder / "earlier"))}
        trees["this"] = ROOT
        builds = {}
        for name, tree in trees.items():
            (folder / f"data-{name}").mkdir()
            builds[name] = stack.enter_context(service(tree, folder / f"data-{name}"))
        starts: dict[str, list[Start]] = {name: [] for name in builds}
        for number in range(submits):
            for name, build in builds.items():
                starts[name].append(build.start(spec))
                one = starts[name][-1]
                print(f"{number} {name}: {one.seconds:.2f} s, CPU {one.cpu_seconds:.2f} s", file=sys.stderr, flush=True)
    _print_table(starts)


def _print_table(starts: dict[str, list[Start]]) -> None:
    columns = {
        "to the first step, s": lambda one: one.seconds,
        "CPU until then, s": lambda one: one.cpu_seconds,
        "a rank's resident MiB": lambda one: one.rank_bytes / MIB,
        "its share, MiB": lambda one: one.rank_share_bytes / MIB,
    }
    medians = {
        name: [statistics.median(figure(one) for one in found) for figure in columns.values()]
        for name, found in starts.items()
    }
    earlier, this = medians.values()
    print(f"| build | {' | '.join(columns)} |\n|{' --- |' * (1 + len(columns))}")
    for name, figures in medians.items():
        print(f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} |")
    print(f"| ratio | {' | '.join(f'{mine / its:.2f}' for mine, its in zip(this, earlier, strict=True))} |")


if __name__ == "__main__":
    main()
