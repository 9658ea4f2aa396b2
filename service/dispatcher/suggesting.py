"""Chooses the values of a sweep's next trial: at once, or in a process of its own while the dispatcher goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from symadj.service.contract.spec.sweep import SweepSpec
from symadj.service.store.tables import SweepTrial

if TYPE_CHECKING:
    from symadj.service.dispatcher.studies import Suggestion

__all__ = ["Suggester", "SuggestionError"]

_MODULE = "symadj.service.dispatcher.suggestion"
# What a study is built from.
_KNOWN = ("number", "state", "value", "parameters", "reports", "attrs")
# It takes 5 s of CPU, and 20 with as many trials, parameters and values as a spec may have.
_MOST_SECONDS = 300.0


class SuggestionError(Exception):
    """No values can be had now; the message says why."""


class Suggester:
    """Asks the samplers.

    One that loads PyTorch is asked in a process that ends with its answer, and has one thread; one at a time, so that
    they take the memory of one. What a dead dispatcher had asked, the next one asks again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, _Process] = {}

    def ask(self, sweep_id: str, spec: SweepSpec, trials: Sequence[SweepTrial]) -> Suggestion | None:
        """Return the values of the next trial, None while they are not there: ask again in the next round.

        They are chosen by what was known of the other trials when the process was started.

        Args:
            sweep_id: of the sweep.
            spec: of the sweep.
            trials: all so far, by number.

        Raises:
            SuggestionError: the process has failed, or takes too long; the next question starts another.
        """
        from symadj.service.dispatcher import studies  # Optuna is loaded by a dispatcher that has a sweep

        if not studies.needs_torch(spec, trials):
            return studies.suggest(spec, trials)
        if sweep_id in self._asked and self._asked[sweep_id].number != len(trials):
            self._forget(sweep_id)
        if sweep_id not in self._asked:
            if not any(process.runs() for process in self._asked.values()):
                self._asked[sweep_id] = _Process(spec, trials, until=self._clock() + _MOST_SECONDS)
            return None
        try:
            answer = self._asked[sweep_id].answer(self._clock())
        except SuggestionError:
            self._forget(sweep_id)
            raise
        return None if answer is None else studies.Suggestion(**answer)

    def forget_all_but(self, sweep_ids: Collection[str]) -> None:
        """End the processes of other sweeps than these."""
        for sweep_id in self._asked.keys() - set(sweep_ids):
            self._forget(sweep_id)

    def _forget(self, sweep_id: str) -> None:
        self._asked.pop(sweep_id).end()


class _Process:
    """A process that is asked for the values of one trial."""

    def __init__(self, spec: SweepSpec, trials: Sequence[SweepTrial], *, until: float) -> None:
        self.number = len(trials)
        self._kind, self._until = spec.sampler.kind, until
        question = {
            "spec": spec.stored(),
            "trials": [{name: getattr(trial, name) for name in _KNOWN} for trial in trials],
        }
        self._answer = tempfile.TemporaryFile()  # noqa: SIM115
        # Files and no pipes: neither of the two must read while the other writes.
        with tempfile.TemporaryFile() as asked:
            asked.write(json.dumps(question).encode())
            asked.seek(0)
            self._process = subprocess.Popen(
                # -P: nothing is imported from the folder that the dispatcher was started in.
                [sys.executable, "-P", "-m", _MODULE],
                stdin=asked,
                stdout=self._answer,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def answer(self, now: float) -> dict[str, Any] | None:
        """Return what it has answered, None while it computes."""
        status = self._process.poll()
        if status is None and now < self._until:
            return None
        if status is None:
            raise SuggestionError(f"sampler.kind {self._kind} has chosen no values within {_MOST_SECONDS:g} s")
        if status != 0:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            raise SuggestionError(
                f"the process that asks sampler.kind {self._kind} ended {how}; the dispatcher's log says why, and "
                "after signal 9 the system's: it may have had too little memory (SYMADJ_DISPATCHER_MEMORY)"
            )
        self._answer.seek(0)
        answer: dict[str, Any] = json.load(self._answer)
        return answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answer.close()
