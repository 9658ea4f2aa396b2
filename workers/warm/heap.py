"""The heap of a run's processes: jemalloc in place of glibc's, where Ray brings it.

glibc cuts what a large tensor has left into pieces for small ones, and asks the kernel for more for the next large one.
Backpropagation of a batch of 4,000 rows, whose tensors took 330 MiB, held 480 to 520; the symplectic adjoint method
held 45 to 105 MiB for 22. With jemalloc it was 333 and 26 MiB, in 0.8 and 1.0 of the processor's time. So what is
planned is what is held.

Ray starts its own processes with it, and its workers too where RAY_LD_PRELOAD_ON_WORKERS is 1. That is the switch of
this module as well.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["restart_with_jemalloc"]


def restart_with_jemalloc() -> None:
    """Become a Python that runs the same command line with jemalloc, where Ray's workers are to have it.

    Does nothing where Ray has brought none, or LD_PRELOAD names a heap already.
    """
    wanted = os.environ.get("RAY_LD_PRELOAD_ON_WORKERS") == "1" and "LD_PRELOAD" not in os.environ
    library = _library() if wanted else None
    if library is None:
        return
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _library() -> Path | None:
    """Return the place of the library in Ray, which need not be imported for it."""
    ray = importlib.util.find_spec("ray")
    for folder in (ray.submodule_search_locations or ()) if ray is not None else ():
        library = Path(folder, "core", "libjemalloc.so")
        if library.exists():
            return library
    return None
