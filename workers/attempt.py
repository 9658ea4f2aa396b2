"""One rank's part of an attempt: set up, train, evaluate, and report how it ended."""

from __future__ import annotations

import importlib.metadata
import io
import json
import logging
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import safetensors.torch
import torch

from symadj.service.contract.order import RunOrder
from symadj.service.contract.output import Output
from symadj.service.contract.plan import Plan
from symadj.service.contract.records import (
    PRETRAINING_SHORTENED,
    ClosedRecord,
    OutcomeRecord,
    PlanRecord,
    ResumedRecord,
)
from symadj.service.contract.result import EvaluationResult, JobResult
from symadj.service.contract.spec import ScoresSpec
from symadj.service.contract.spec.resources import GpuResources
from symadj.service.contract.states import JobState, ReasonCode, StopReason
from symadj.workers.data import PreparedData, data_roots, load_data
from symadj.workers.delivery.capture import captured
from symadj.workers.delivery.outbox import TelemetryError
from symadj.workers.delivery.sender import open_sender
from symadj.workers.distributed.ranks import AttemptFailedError, PeerLostError, Ranks
from symadj.workers.evaluation import Evaluator
from symadj.workers.evaluation.parts import ReportParts
from symadj.workers.evaluation.scores import tested_rows
from symadj.workers.files.checkpoints import CorruptCheckpointError, StoredCheckpoint
from symadj.workers.files.model_card import CARD, model_card
from symadj.workers.model.build import build_flow, validation_flow
from symadj.workers.outcome import LESS_MEMORY, Failure
from symadj.workers.planning import idle_bytes, make_plan
from symadj.workers.rank_run import RankRun
from symadj.workers.scores.run import ScoresRun
from symadj.workers.training.checkpointer import Checkpointer
from symadj.workers.training.loop import train
from symadj.workers.training.schedules import pretraining_steps
from symadj.workers.training.state import TrainingState
from symadj_core.flows import Flow
from symadj_core.trained.folder import CONFIG, FORMAT, WEIGHTS

__all__ = ["AttemptRun", "run_worker"]

log = logging.getLogger(__name__)

# How long a rank that has lost a peer tries to deliver its last records: Ray is about to end it.
_LAST_WORDS_S = 2.0
_VERSIONS_OF = ("symadj", "torch", "numpy", "ray")


Watch = Callable[[Ranks, Callable[[StopReason], None]], AbstractContextManager[None]]


def _no_watch(_ranks: Ranks, _stop: Callable[[StopReason], None]) -> AbstractContextManager[None]:
    return nullcontext()


def run_worker(
    order: RunOrder, token: str, watch: Watch = _no_watch, outputs: Sequence[Output] = ()
) -> OutcomeRecord | None:
    """Run this process's rank of the attempt to its end and deliver all its records.

    Args:
        order: what to do.
        token: of the attempt.
        watch: may let this rank stop for a reason that it finds outside of the run, while the run goes on.
        outputs: where this process prints, which is sent.

    Returns:
        The outcome, complete on rank 0; None when the attempt was replaced.

    Raises:
        PeerLostError: another rank died.
        TelemetryError: the API refuses the records.
    """
    resources = order.spec.resources
    torch.set_num_threads(resources.cpus_per_worker)
    ranks = Ranks(_device(isinstance(resources, GpuResources)))
    sender = open_sender(order, token, f"rank-{ranks.rank}")
    log.info("rank %d of %d: process %d on %s", ranks.rank, ranks.size, os.getpid(), platform.node())
    try:
        with captured(sender, outputs, token), watch(ranks, sender.interrupt):
            course = ScoresRun if isinstance(order.spec, ScoresSpec) else AttemptRun
            outcome = course(RankRun(order, ranks, sender)).run()
        sender.put(ClosedRecord())
        timeout = order.flush_timeout_seconds
        if not sender.flush(timeout) and not sender.superseded:
            raise TelemetryError(f"rank {ranks.rank}: the API did not take all records within {timeout:g} s")
        return outcome
    except PeerLostError:
        # What this rank knows may show why the other died.
        sender.flush(_LAST_WORDS_S)
        raise
    finally:
        sender.close()


def _device(accelerated: bool) -> torch.device:
    if not accelerated:
        return torch.device("cpu")
    # Ray shows each worker the one accelerator that it gave it.
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        raise RuntimeError("resources.kind is gpu, but torch finds no accelerator on this node")
    torch.accelerator.set_device_index(0)
    return torch.device(device.type, 0)


class AttemptRun:
    """An attempt at a training on one rank; all ranks go through it side by side."""

    def __init__(self, run: RankRun) -> None:
        self.rank_run = run
        self.order, self.spec, self.ranks = run.order, run.spec, run.ranks

    def run(self) -> OutcomeRecord | None:
        """Return the outcome, or None when the attempt was replaced."""
        try:
            return self._run()
        except AttemptFailedError as error:
            return error.failure.outcome()

    def _run(self) -> OutcomeRecord | None:
        data = self.ranks.together(self._load, phase="setup")
        self._fit_to_the_rows(data)
        flow, plan = self.ranks.together(lambda: self._build(data), phase="setup")
        self.ranks.agree(self._announce(plan))
        parameters = sum(p.numel() for p in flow.parameters())
        self.rank_run.event(
            "training_started",
            f"{self.ranks.size} ranks train {parameters} parameters on {data.training_rows} rows of {data.dim} values",
            ranks=self.ranks.size,
            device=self.ranks.device.type,
            dim=data.dim,
            parameters=parameters,
            training_rows=data.training_rows,
            validation_rows=len(data.validation),
            test_rows=len(data.test),
            validation_divergence=validation_flow(flow, self.spec)[1],
        )
        state = TrainingState(self.spec, flow)
        checkpointer = self.ranks.together(
            lambda: Checkpointer(self.rank_run, data) if self.ranks.rank == 0 else None, phase="setup"
        )
        self._resume(state, checkpointer)
        state.microbatch_halvings = max(state.microbatch_halvings, self.order.microbatch_halvings)
        if self.spec.evaluation is not None and state.step == 0:
            Evaluator(self.rank_run, self.spec.evaluation, state.evaluated, data).try_out()
        ending = train(self.rank_run, state, data, checkpointer)
        if ending == "superseded":
            return None
        weights_of = state.restore_best()
        self.rank_run.event(
            "training_finished",
            f"{state.step} steps in {state.seconds:.1f} s"
            + (f", weights of step {weights_of}" if weights_of != state.step else ""),
            steps=state.step,
            seconds=state.seconds,
            stopped_early=ending == "stopped_early",
            weights_of_step=weights_of,
        )
        # Before anything else can fail: the weights are what the user is waiting for.
        self.rank_run.on_rank_0(lambda: self._save_flow(state, data, weights_of), phase="artifacts")
        measured = EvaluationResult()
        if self.spec.evaluation is not None:
            evaluator = Evaluator(self.rank_run, self.spec.evaluation, state.evaluated, data)
            measured = evaluator.run(state.step, state.history, state.validations)
        result = JobResult(
            **dict(measured),
            steps=state.step,
            batch_size=self.spec.batch_size,
            pretraining_steps=min(state.step, pretraining_steps(self.spec)),
            stopped_early=ending == "stopped_early",
            weights_of_step=weights_of,
            train_seconds=state.seconds,
            parameters=parameters,
            validation_nll=next((v.nll for v in reversed(state.validations) if v.step == weights_of), None),
        )
        parts = ReportParts(self.rank_run)
        parts.shared(CARD, lambda: self.rank_run.on_rank_0(lambda: self._save_card(data, result), phase="artifacts"))
        if parts.failures:
            failures = [*(result.report_failures or ()), *parts.failures]
            result = result.model_copy(update={"report_failures": failures})
        return OutcomeRecord(state=JobState.SUCCEEDED, message=_what_failed(result), result=result)

    def _announce(self, plan: Plan | None) -> Failure | None:
        """Report the plan, and that even its shortest solve takes more than the budget.

        Returns:
            That failure, where the spec asks to fail, and nothing that it asks for makes the steps small enough.
        """
        if plan is None:
            return None
        self.rank_run.outbox.put(PlanRecord(plan=plan))
        least, resources = plan.chosen.peaks[0], self.spec.resources
        message = plan.over_budget
        if message is None or plan.memory_budget is None:
            return None
        figures = {"planned_bytes": least.worker_bytes, "memory_budget_bytes": plan.memory_budget}
        adapts = resources.microbatch_size == "auto" or self.spec.gradient.kind == "auto"
        if resources.over_budget == "fail" and not (adapts and plan.resting_bytes < plan.memory_budget):
            advice = f"raise resources.memory_budget; or {LESS_MEMORY}"
            return Failure(ReasonCode.OUT_OF_MEMORY, message, self.ranks.where(**figures, of="host", advice=advice))
        self.rank_run.event("memory_budget_too_small", message, **figures)
        return None

    def _resume(self, state: TrainingState, checkpointer: Checkpointer | None) -> None:
        """Return to the newest complete checkpoint, if there is one; all ranks use the one that rank 0 finds."""
        while True:
            found = self.ranks.together(lambda: None if checkpointer is None else checkpointer.newest(), phase="resume")
            checkpoint = self.ranks.gather(found)[0]
            if checkpoint is None:
                return
            read = self.ranks.together(lambda: self._read(checkpoint), phase="resume")  # noqa: B023
            problems = [said for said in self.ranks.gather(read if isinstance(read, str) else None) if said]
            if not isinstance(read, str) and not problems:
                break
            # Complete when rank 0 looked: since then removed or damaged, or another rank does not see it.
            if checkpointer is not None:
                checkpointer.give_up(checkpoint, problems[0])
        self.ranks.together(lambda: state.load_state_dict(read), phase="resume")
        if checkpointer is not None:
            checkpointer.resumed(state, checkpoint)
        if self.ranks.rank == 0:
            self.rank_run.outbox.put(ResumedRecord(step=state.step, checkpoint=checkpoint.name))

    def _read(self, checkpoint: StoredCheckpoint) -> dict[str, Any] | str:
        """Return the content of a checkpoint, or a message that says why it can't be read."""
        try:
            return self.rank_run.retries.while_unreachable(checkpoint.load)
        except CorruptCheckpointError as error:
            return str(error)

    def _load(self) -> PreparedData:
        roots = data_roots(self.order)
        return self.rank_run.retries.while_unreachable(lambda: load_data(self.spec.data, roots))

    def _fit_to_the_rows(self, data: PreparedData) -> None:
        """Go on with the spec as it is for so many rows, and say what that has changed."""
        asked, spec = self.spec, self.spec.for_rows(data.training_rows)
        self.spec, self.order = spec, self.order.model_copy(update={"spec": spec})
        self.rank_run = replace(self.rank_run, order=self.order)
        if spec.batch_size != asked.batch_size:
            self.rank_run.event(
                "batch_reduced",
                f"batches of {spec.batch_size} rows instead of {asked.batch_size}: data.batch_size is not given, and "
                f"there are {data.training_rows} training rows for {spec.resources.workers} workers",
                batch_size=spec.batch_size,
                batch_size_usual=asked.batch_size,
                training_rows=data.training_rows,
            )
        if asked.pretraining is None or spec.pretraining is None or spec.pretraining == asked.pretraining:
            return
        steps, of = spec.pretraining.steps, asked.pretraining.steps
        self.rank_run.event(
            PRETRAINING_SHORTENED,
            f"{steps} steps of pre-training instead of {of}: pretraining.max_epochs allows "
            f"{spec.pretraining.max_epochs} passes over the {data.training_rows} training rows, in batches of "
            f"{spec.batch_size}",
            steps=steps,
            steps_asked=of,
            max_epochs=spec.pretraining.max_epochs,
            training_rows=data.training_rows,
            max_steps=getattr(spec.stop, "max_steps", None),
        )

    def _build(self, data: PreparedData) -> tuple[Flow, Plan | None]:
        flow = build_flow(self.spec, data.dim, data.context_dim, data.shape)
        plan = self._plan(flow) if self.ranks.rank == 0 else None
        return flow.to(self.ranks.device), plan

    def _plan(self, flow: Flow) -> Plan | None:
        """Return what a rank will take, None where its field can't be rehearsed."""
        try:
            idle = partial(idle_bytes, self.spec, flow)
            return make_plan(self.spec, flow, idle_bytes=idle, workers=self.ranks.size, all_gradients=False)
        except Exception as error:
            # A plugin's field may refuse the random rows of a rehearsal: it is trained without a plan.
            self.rank_run.event("not_planned", f"What the training will take in memory is not known: {error}")
            return None

    def _save_flow(self, state: TrainingState, data: PreparedData, step: int) -> None:
        """Store the weights to use, with ``ema`` also the weights that they average, the config to read them by, and
        the numbers of the rows that the test scores, by which anybody can score them again."""
        flows = {WEIGHTS: state.evaluated}
        if state.average is not None:
            flows["weights-not-averaged.safetensors"] = state.flow
        for name, flow in flows.items():
            weights = {key: value.detach().cpu().contiguous() for key, value in flow.state_dict().items()}
            # Equal weights must make equal files: so without the job's name, which config.json has, and with a single
            # entry, since safetensors writes several in an order that changes from run to run.
            about = json.dumps({"steps": step, "dim": data.dim})
            content = safetensors.torch.save(weights, {"symadj": about})
            self.rank_run.store(name, "application/octet-stream", content)
        config = {
            "format": FORMAT,
            "job_id": self.order.job_id,
            "attempt": self.order.attempt,
            "spec": self.spec.stored(),
            **data.config(),
            "versions": _versions(),
        }
        text = json.dumps(config, indent=2) + "\n"
        self.rank_run.store(CONFIG, "application/json", text.encode())
        if self.spec.evaluation is not None and self.spec.evaluation.test:
            numbers = io.BytesIO()
            np.save(numbers, tested_rows(self.spec.evaluation, data).index)
            self.rank_run.store("test_rows.npy", "application/octet-stream", numbers.getvalue())

    def _save_card(self, data: PreparedData, result: JobResult) -> None:
        rows = {"training": data.training_rows, "validation": len(data.validation), "test": len(data.test)}
        card = model_card(self.spec, result, rows, data.columns, data.context_columns)
        self.rank_run.store(CARD, "text/markdown", card)


def _what_failed(measured: EvaluationResult) -> str:
    """Return a sentence about what the report lacks, nothing where it is complete."""
    parts = ", ".join(f"{failure.part} ({failure.reason})" for failure in measured.report_failures or ())
    return f"The weights are stored; these parts of the report could not be made: {parts}." if parts else ""


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
