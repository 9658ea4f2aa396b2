"""What may happen to a job, each call in the caller's transaction.

``wishes`` is what users ask for, ``attempts`` what becomes of the tries at a job, ``parents`` what a job may go on
from, ``folders`` where its files lie. Every change of state goes through ``store.jobs.transition``, which allows no
illegal one.
"""

from __future__ import annotations

from service.lifecycle.attempts import (
    LEASE_SECONDS,
    Claim,
    ask_timeout,
    claim,
    end,
    hash_token,
    lose,
    pause_after,
    put_back,
    refuse,
)
from service.lifecycle.folders import artifact_folder, checkpoint_folder, job_folder
from service.lifecycle.parents import adopt_checkpoint
from service.lifecycle.wishes import ask_checkpoint, cancel, delete, pause, resume, submit

__all__ = [
    "LEASE_SECONDS",
    "Claim",
    "adopt_checkpoint",
    "artifact_folder",
    "ask_checkpoint",
    "ask_timeout",
    "cancel",
    "checkpoint_folder",
    "claim",
    "delete",
    "end",
    "hash_token",
    "job_folder",
    "lose",
    "pause",
    "pause_after",
    "put_back",
    "refuse",
    "resume",
    "submit",
]
