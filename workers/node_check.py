"""A look at the data of a job that may be submitted, or its plan, on a node of Ray: ``python -m`` this module.

The API starts it where the data are not on its own machine (``api/node_checks.py``). It answers one question, which is
a file in the storage, within the bounds that come with it, and needs nothing of Ray itself.
"""

from __future__ import annotations

import os

import torch

from symadj.service.contract.flow_question import NodeCheck, frame
from symadj.service.contract.storage import open_storage
from symadj.workers.flow_server import Flows, Memory, answer, die_first

__all__ = ["main"]


def main() -> None:
    """Answer the question in the folder that ``SYMADJ_NODE_CHECK`` names."""
    die_first()
    folder = open_storage(os.environ[NodeCheck.PLACE_VARIABLE])
    check = NodeCheck.model_validate_json(folder.read(NodeCheck.FILE))
    torch.set_num_threads(check.threads)
    with Memory(check.memory).bounded():
        given = answer(Flows(), check.question, b"")
    folder.write(NodeCheck.ANSWER, frame(*given), private=True)


if __name__ == "__main__":
    main()
