"""What to do about a job that failed, by its reason."""

from __future__ import annotations

from typing import Any

from symadj.service.contract.spec import SCORES, kind_of
from symadj.service.contract.states import ReasonCode

__all__ = ["advice_for"]

# For the general case: a run that knows better gives its own advice in place of this.
_OF_A_TRAINING = {
    ReasonCode.DIVERGED: "lower optimizer.learning_rate or give it warmup_steps, set optimizer.clip_norm, tighten the "
    "solver's tolerances, or let the training get over it (on_divergence); the last checkpoint is kept",
    ReasonCode.SOLVER_STUCK: "loosen solver.rtol and solver.atol or raise solver.max_steps, add a kinetic regulariser, "
    "lower optimizer.learning_rate, or take flow.dtype float64; the last checkpoint is kept",
    ReasonCode.OUT_OF_MEMORY: "take gradient.kind symplectic, a smaller data.batch_size, or more workers for the same "
    "batch",
    ReasonCode.DATA_ERROR: "mend the file or the part of the spec that the message names, and submit the job again",
    ReasonCode.PLUGIN_ERROR: "install the release that the message names in the environment of every node, and submit "
    "the job again",
    ReasonCode.CANNOT_FIT: "ask for fewer workers, CPUs, GPUs or memory_budget, or enlarge the cluster",
    ReasonCode.WORKER_LOST: "look into the logs of Ray and of the node for what killed the process (its memory, most "
    "often), and go on from the last checkpoint in a new job (symadj continue), with a larger max_attempts perhaps",
    ReasonCode.CLUSTER_LOST: "see that Ray's head runs and has the memory that it needs, and go on from the last "
    "checkpoint in a new job (symadj continue)",
    ReasonCode.PRUNED: "its sweep gave it up for what the other trials had reached: to train it to its end all the "
    "same, submit it by itself (symadj clone)",
    ReasonCode.TIMEOUT: "go on from the last checkpoint in a new job (symadj continue), with a longer timeout_minutes "
    "or none",
    ReasonCode.INTERNAL: "this is a fault of symadj or of its installation: report it with the message and the events; "
    "the last checkpoint, if there is one, can be gone on from (symadj continue)",
}

# Where a job that scores rows differs.
_OF_SCORES = {
    ReasonCode.WORKER_LOST: "look into the logs of Ray and of the node for what killed the process (its memory, most "
    "often), and score the rows again, with a larger max_attempts perhaps",
    ReasonCode.CLUSTER_LOST: "see that Ray's head runs and has the memory that it needs, and score the rows again",
    ReasonCode.TIMEOUT: "score the rows again with a longer timeout_minutes or none, or with more workers",
    ReasonCode.DATA_ERROR: "mend the file or the part of the request that the message names, and score the rows again",
    ReasonCode.OUT_OF_MEMORY: "take more memory for a worker (resources.memory_budget), or fewer workers on a node",
    ReasonCode.INTERNAL: "this is a fault of symadj or of its installation: report it with the message and the events",
}


def advice_for(spec: dict[str, Any], reason: ReasonCode) -> str:
    """Return what to do about a job of this spec that failed for this reason."""
    own = _OF_SCORES if kind_of(spec) == SCORES else {}
    return own.get(reason, _OF_A_TRAINING[reason])
