"""One service for the deaths that leave it whole, and the weights of a run that nothing disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.deaths.world import World, now, toy, world

STEPS = 2000
# Of one worker, and long enough to train on while the store is away.
LONG = toy(4 * STEPS, workers=1)

Measure = Callable[[str, str, float, str | None], None]
_measured = pytest.StashKey[list[tuple[str, str, float, str | None]]]()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service of two CPUs that stays up between the tests."""
    with world(tmp_path_factory.mktemp("deaths")) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(shared: World, measure: Measure) -> str:
    """SHA-256 of the weights of ``toy(STEPS)``, trained in peace."""
    return _in_peace(shared, toy(STEPS), measure)


@pytest.fixture(scope="session")
def undisturbed_long(shared: World, measure: Measure) -> str:
    """SHA-256 of the weights of ``LONG``, trained in peace."""
    return _in_peace(shared, LONG, measure)


def _in_peace(shared: World, spec: dict[str, Any], measure: Measure) -> str:
    submitted_at = now()
    job_id = shared.submit(spec)
    seconds = shared.recovered(job_id, submitted_at)
    shared.ended(job_id)
    weights = shared.weights(job_id)
    workers, steps = spec["resources"]["workers"], spec["stop"]["max_steps"]
    followed = f"one attempt of {steps} steps, workers: {workers} (seconds: from its submission)"
    measure("nothing", followed, seconds, weights)
    return weights


@pytest.fixture(scope="session")
def measure(pytestconfig: pytest.Config) -> Measure:
    """Note for the table at the end: what died, what followed, the seconds until there was a new step to read, and the
    SHA-256 of the weights in the end.
    """
    measured = pytestconfig.stash.setdefault(_measured, [])

    def note(died: str, followed: str, seconds: float, weights: str | None) -> None:
        measured.append((died, followed, seconds, weights))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of docs/reliability.md, as measured now."""
    measured = config.stash.get(_measured, [])
    if not measured:
        return
    terminalreporter.section("deaths")
    terminalreporter.write_line("| what died | what followed | seconds until a new step | weights, SHA-256 |")
    terminalreporter.write_line("| --- | --- | --- | --- |")
    for died, followed, seconds, weights in measured:
        terminalreporter.write_line(f"| {died} | {followed} | {seconds:.1f} | {(weights or '')[:12]} |")
