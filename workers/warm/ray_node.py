"""``python -m symadj.workers.warm.ray_node start ...``: Ray's command line, whose nodes start processes by our script.

That is ``setup_worker.py``. Ray has no option for it, and takes its place from a constant.
"""

from __future__ import annotations

from pathlib import Path

from ray._private import ray_constants
from ray.scripts.scripts import main as ray_main

__all__ = ["main"]


def main() -> None:
    """Run Ray's command line."""
    # Joined to a folder of Ray's, an absolute path stands for itself.
    ray_constants.SETUP_WORKER_FILENAME = str(Path(__file__).with_name("setup_worker.py"))
    ray_main()


if __name__ == "__main__":
    main()
