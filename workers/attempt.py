"""One rank's part of an attempt: set up, train, evaluate, and say how it ended."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import safetensors.torch
import torch

from symadj.service.contract.order import RunOrder
from symadj.service.contract.records import ClosedRecord, EventRecord, ResumedRecord
from symadj.service.contract.spec.resources import GpuResources
from symadj.service.contract.states import JobState
from symadj.workers.data import PreparedData, load_data
from symadj.workers.delivery.sender import Outbox, TelemetryError, flush_timeout, open_sender
from symadj.workers.distributed.ranks import AttemptFailedError, PeerLostError, Ranks
from symadj.workers.evaluation import Evaluator
from symadj.workers.files.artifacts import ArtifactFolder
from symadj.workers.files.checkpoints import CorruptCheckpointError, StoredCheckpoint
from symadj.workers.files.retries import retry_while_full, retry_while_unreachable
from symadj.workers.model.build import build_flow, validation_flow
from symadj.workers.training.checkpointer import Checkpointer
from symadj.workers.training.loop import train
from symadj.workers.training.state import TrainingState
from symadj_core.flows import Flow

__all__ = ["AttemptRun", "run_worker"]

# How long a rank that has lost a peer tries to deliver its last records: Ray is about to end it.
_LAST_WORDS_S = 2.0
_VERSIONS_OF = ("symadj", "torch", "numpy", "ray")


def run_worker(order: RunOrder) -> dict[str, Any] | None:
    """Run this process's rank of the attempt to its end and deliver all its records.

    Returns:
        The fields of the ``OutcomeRecord``, complete on rank 0; None when the attempt is not wanted any more.

    Raises:
        PeerLostError: another rank died.
        TelemetryError: the API refuses the records.
    """
    # A line for every request, in a log that Ray keeps.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    resources = order.spec.resources
    torch.set_num_threads(resources.cpus_per_worker)
    ranks = Ranks(_device(isinstance(resources, GpuResources)))
    sender = open_sender(order, f"rank-{ranks.rank}")
    try:
        outcome = AttemptRun(order, ranks, sender).run()
        sender.put(ClosedRecord(time=datetime.now(UTC)))
        if not sender.flush(flush_timeout()) and not sender.superseded:
            raise TelemetryError(f"rank {ranks.rank}: the API did not take all records within {flush_timeout():g} s")
        return outcome
    except PeerLostError:
        # What this rank knows may tell why the other died.
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
    """The course of an attempt on one rank; all ranks go through it side by side.

    Args:
        order: what to do.
        ranks: this rank among the others.
        outbox: takes this rank's records.
    """

    def __init__(self, order: RunOrder, ranks: Ranks, outbox: Outbox) -> None:
        self.order, self.spec, self.ranks, self.outbox = order, order.spec, ranks, outbox
        self.artifacts = ArtifactFolder(order)

    def run(self) -> dict[str, Any] | None:
        """Return the fields of the outcome, or None when the attempt is not wanted any more."""
        try:
            return self._run()
        except AttemptFailedError as error:
            return error.failure.outcome()

    def _run(self) -> dict[str, Any] | None:
        data, flow = self.ranks.together(self._set_up, phase="setup")
        parameters = sum(p.numel() for p in flow.parameters())
        self._event(
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
            lambda: Checkpointer(self.order, data, self.outbox) if self.ranks.rank == 0 else None, phase="setup"
        )
        self._resume(state, checkpointer)
        ending = train(self.spec, state, data, self.ranks, self.outbox, checkpointer)
        if ending == "superseded":
            return None
        weights_of = state.restore_best()
        self._event(
            "training_finished",
            f"{state.step} steps in {state.seconds:.1f} s"
            + (f", weights of step {weights_of}" if weights_of != state.step else ""),
            steps=state.step,
            seconds=state.seconds,
            stopped_early=ending == "stopped_early",
            weights_of_step=weights_of,
        )
        # Before anything else can fail: this is what the user waited for.
        self._on_rank_0(lambda: self._save_flow(state, data, weights_of))
        result = {
            "steps": state.step,
            "stopped_early": ending == "stopped_early",
            "weights_of_step": weights_of,
            "train_seconds": state.seconds,
            "parameters": parameters,
            "validation_nll": next((v.nll for v in reversed(state.validations) if v.step == weights_of), None),
        }
        if self.spec.evaluation is not None:
            flow = state.evaluated
            evaluator = Evaluator(self.spec, self.spec.evaluation, flow, data, self.ranks, self.outbox, self.artifacts)
            result |= evaluator.run(state.history, state.validations)
        return {"state": JobState.SUCCEEDED, "result": result}

    def _resume(self, state: TrainingState, checkpointer: Checkpointer | None) -> None:
        """Go back to the newest checkpoint that is whole, if there is one; all ranks to that which rank 0 finds."""
        while True:
            found = self.ranks.together(lambda: None if checkpointer is None else checkpointer.newest(), phase="resume")
            checkpoint = self.ranks.gather(found)[0]
            if checkpoint is None:
                return
            read = self.ranks.together(lambda: self._read(checkpoint), phase="resume")  # noqa: B023
            problems = [words for words in self.ranks.gather(read if isinstance(read, str) else None) if words]
            if not isinstance(read, str) and not problems:
                break
            # Whole when rank 0 looked: removed or damaged since, or another rank does not see it.
            if checkpointer is not None:
                checkpointer.give_up(checkpoint, problems[0])
        self.ranks.together(lambda: state.load_state_dict(read), phase="resume")
        if checkpointer is not None:
            checkpointer.resumed(state, checkpoint)
        if self.ranks.rank == 0:
            self.outbox.put(ResumedRecord(time=datetime.now(UTC), step=state.step, checkpoint=checkpoint.name))

    def _read(self, checkpoint: StoredCheckpoint) -> dict[str, Any] | str:
        """Return what a checkpoint holds, or in words why it can't be read."""
        try:
            return retry_while_unreachable(self.outbox, checkpoint.load)
        except CorruptCheckpointError as error:
            return str(error)

    def _set_up(self) -> tuple[PreparedData, Flow]:
        data = retry_while_unreachable(self.outbox, lambda: load_data(self.spec.data))
        return data, build_flow(self.spec, data.dim, data.context_dim, data.shape).to(self.ranks.device)

    def _save_flow(self, state: TrainingState, data: PreparedData, step: int) -> None:
        """Store the weights to be used, those they are the average of where there is one, and how to read them."""
        flows = {"weights.safetensors": state.evaluated}
        if state.average is not None:
            flows["weights-not-averaged.safetensors"] = state.flow
        for name, flow in flows.items():
            weights = {key: value.detach().cpu().contiguous() for key, value in flow.state_dict().items()}
            # Equal weights are to make equal files: so no job's name, which config.json has, and one entry alone, since
            # safetensors writes several in an order that changes from run to run.
            about = json.dumps({"steps": step, "dim": data.dim})
            content = safetensors.torch.save(weights, {"symadj": about})
            self._store(name, "application/octet-stream", content)
        config = {
            "job_id": self.order.job_id,
            "attempt": self.order.attempt,
            "spec": self.spec.stored(),
            **data.stored(),
            "versions": _versions(),
        }
        text = json.dumps(config, indent=2) + "\n"
        self._store("config.json", "application/json", text.encode())

    def _store(self, name: str, media_type: str, content: bytes) -> None:
        record = retry_while_full(self.outbox, lambda: self.artifacts.write(name, media_type, content))
        self.outbox.put(record)

    def _on_rank_0(self, work: Callable[[], None]) -> None:
        self.ranks.together(lambda: work() if self.ranks.rank == 0 else None, phase="artifacts")

    def _event(self, name: str, message: str, **data: Any) -> None:
        if self.ranks.rank == 0:
            self.outbox.put(EventRecord(time=datetime.now(UTC), name=name, message=message, data=data))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
