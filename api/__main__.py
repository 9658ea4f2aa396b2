"""``python -m symadj.api``: the API alone, as ``symadj serve`` starts it."""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from symadj.api.listening import ExposedError, check_exposure
from symadj.api.slow_clients import protocol_with_deadline
from symadj.service.contract.storage import StorageUnreachableError
from symadj.service.settings import SettingsError, read_settings
from symadj.service.store import Database

# Longer than clients keep a connection that they do not use (httpx: 5 s, as uvicorn by default): the side that closes
# it must be theirs, or they send their next request into a connection that is being closed.
KEEP_ALIVE_SECONDS = 30
# Of the first line and the headers of a request. The longest that the API takes: `.../series` with `MAX_METRICS` names
# of 100 characters (104 KiB). Uvicorn's default is 64 KiB; to what is longer it answers a 400 of its own.
MAX_HEAD_BYTES = 2**17
# A thread that reads rows gives the interpreter away at every row, and the event loop at every message; whoever takes
# it keeps it for so long (Python's default: 5 ms), if it computes. A request of a hundred such turns took a second.
SWITCH_SECONDS = 0.0005
# Heaps of glibc, which gives threads up to eight a core: each keeps what its threads have held at most, and so the
# process grows by what they held in turn. The interpreter lets one thread work at a time, and they hardly wait.
HEAPS = 2
_M_ARENA_MAX = -8  # glibc's malloc.h
# What is free between what is in use goes back to the system so often; by itself glibc gives back a heap's end alone.
TRIM_SECONDS = 2.0


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without asking for keys")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
        check_exposure(settings, arguments.host, insecure=arguments.insecure)
        settings.check_buckets()
    except (ExposedError, SettingsError) as error:
        sys.exit(str(error))
    except StorageUnreachableError as error:
        # It may answer again, and most of the API does without.
        print(f"a bucket does not answer: {error}", file=sys.stderr)
    sys.setswitchinterval(SWITCH_SECONDS)
    # httpx loads its command line, where Rich is installed: 5 MiB.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    # Alembic's libraries take 12 MiB, and end with the child. It is a copy: nothing runs in this process yet.
    migration = multiprocessing.get_context("fork").Process(target=_migrate, args=(settings.resolved_store_url(),))
    migration.start()
    migration.join()
    _bound_heaps()
    # Not by uvicorn's own command line, which puts the current folder before the installed packages.
    uvicorn.run(
        "symadj.api.app:create_app",
        factory=True,
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        http=protocol_with_deadline(settings.request_seconds),
    )


def _migrate(store_url: str) -> None:
    """Bring the store's tables to this version's shape. The application tries again, and tells what goes wrong."""
    with suppress(Exception):
        Database(store_url).migrate()


def _bound_heaps() -> None:
    """Bound the heaps of the threads that are yet to start, and what they keep, where the C library is glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_ARENA_MAX, HEAPS)
        threading.Thread(target=_keep_trimming, args=(libc.malloc_trim,), daemon=True).start()


def _keep_trimming(trim: Callable[[int], int]) -> None:
    while True:
        time.sleep(TRIM_SECONDS)
        trim(0)


if __name__ == "__main__":
    main()
