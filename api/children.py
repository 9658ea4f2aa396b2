"""The processes of a service: started, restarted when they die, stopped with all that they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

__all__ = ["Child", "ServeError", "end_processes_of"]

STOP_SECONDS = 20.0
# In the environment of a child and so of all that it starts, in any session, so that they are found again.
MARK = "SYMADJ_SERVED"


class ServeError(Exception):
    """The service can't start; the message says what to do."""


@dataclass
class Child:
    """One process of the service.

    It is ready when it answers 200 at all ``ready_urls`` (asked with ``headers``), for which it has ``start_seconds``;
    if it ends in them, it is started again ``start_retries`` times.
    When it is asked to end, it has ``stop_seconds``. ``last_words`` is the signal that the kernel sends it should the
    supervisor be killed (Linux). Where it has a ``family``, the name of another child, what it starts belongs to that
    one, and outlives it.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    data: Path
    ready_urls: tuple[str, ...] = ()
    start_seconds: float = 0.0
    start_retries: int = 0
    headers: dict[str, str] | None = None
    last_words: signal.Signals = signal.SIGKILL
    stop_seconds: float = STOP_SECONDS
    family: str | None = None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.data / "logs" / f"{self.name}.log"

    @property
    def mark(self) -> str:
        """What distinguishes its processes from others."""
        return f"{self.family or self.name}:{self.data}"

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        self.started_at = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment | {MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ray puts the folder in which it was started before a worker's packages: not the user's, then.
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops the others in order
                preexec_fn=lambda: _die_with_parent(self.last_words),
            )

    def wait_until_ready(self, given_up: Callable[[], bool]) -> None:
        """Wait until it is ready, or until ``given_up()``.

        Raises:
            ServeError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + self.start_seconds
        waiting = list(self.ready_urls)
        with httpx.Client(timeout=5, trust_env=False, headers=self.headers) as client:
            while waiting and not given_up():
                assert self.process is not None
                if self.process.poll() is not None:
                    if not self.start_retries:
                        raise ServeError(f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}")
                    self.start_retries -= 1
                    self._start_again()
                with contextlib.suppress(httpx.TransportError):
                    if client.get(waiting[0]).status_code == 200:
                        del waiting[0]
                        continue
                if time.monotonic() > deadline:
                    raise ServeError(
                        f"{self.name} does not answer after {self.start_seconds:g} s; its log ends:\n{self.tail()}"
                    )
                time.sleep(0.2)

    def revive(self) -> None:
        """Start it again if it died, after a pause that grows with the number of its deaths."""
        assert self.process is not None
        if self.process.poll() is None:
            return
        now = time.monotonic()
        if self.restart_at == 0.0:
            if now - self.started_at > 60.0:
                self.restarts = 0
            pause = min(30.0, 0.5 * 2 ** min(self.restarts, 6))
            print(
                f"symadj: {self.name} ended with status {self.process.returncode}; again in {pause:g} s ({self.log})",
                file=sys.stderr,
                flush=True,
            )
            self.restart_at = now + pause
        elif now >= self.restart_at:
            self.restart_at = 0.0
            self.restarts += 1
            self._start_again()

    def _start_again(self) -> None:
        if self.family is None:
            # What is left of its processes holds the ports and the memory that the next one needs.
            end_processes_of(self.mark)
        self.start()

    def stop(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Ask it to stop, then kill it, with all that it started: after ``stop_seconds``, or when ``given_up()``."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            deadline = time.monotonic() + self.stop_seconds
            while self.process.poll() is None and time.monotonic() < deadline and not given_up():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        end_processes_of(self.mark)
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def end_processes_of(mark: str) -> None:
    """Kill all processes of this user that carry a child's mark (Linux; elsewhere nothing is found).

    Ray starts its workers and drivers in sessions of their own, and one that is stopped (SIGSTOP) outlives its raylet.
    """
    while _kill_all(mark):
        time.sleep(0.05)  # one may just have started another


def _kill_all(mark: str) -> bool:
    """Kill all processes with this mark in their environment; return whether there was any."""
    found = False
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                found = True
        except psutil.Error:  # it has ended, or belongs to someone else
            continue
    return found


def _die_with_parent(last_words: signal.Signals) -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, last_words)
