"""The process that a run's processes are copies of: it has imported what they need, and does nothing else.

``python -m symadj.workers.warm.template SOCKET``, one on each node of Ray. Each request (``interpreter.py``) is a
command line of Python's, which a copy (fork) of this process runs, and then ends: it is of one run alone, and what it
changes in itself no other sees. A copy takes its environment, folder, files and limits from whoever asked, ends when
that process does, and has its memory in common with the others as long as it does not write there.

Should this process die, the copies go on, and whoever asks for one starts Python instead.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from symadj.workers.warm import heap

__all__ = ["main"]

# What the processes of a run import, which takes them seconds, and what Ray imports. Ray itself is left to each copy:
# as it is imported it reads from the environment, once and for all, whose process it is in.
_MODULES = (
    "colorful",
    "filelock",
    "fsspec.implementations.local",
    "google.protobuf.any_pb2",
    "google.protobuf.json_format",
    "google.protobuf.struct_pb2",
    "google.protobuf.timestamp_pb2",
    "jsonschema",
    "logging.config",
    "msgpack",
    "pandas",
    "pdb",
    "psutil",
    "pyarrow.fs",
    "pyarrow.parquet",
    "pydantic.dataclasses",
    "requests",
    "symadj.workers.attempt",
    "tqdm.auto",
)
# A library's threads would not be in a copy, and what they hold locked stays locked there: so none may start any.
_NO_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_NO_THREADS |= {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
# Arrow's own heap beside that of the process begins at 4 MiB, which every copy would have.
_ONE_HEAP = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
# For a client to send its request, seconds: the others wait meanwhile.
_REQUEST_S = 5.0
_STANDARD_FILES = 3


def main() -> None:
    """Serve until SIGTERM; in a copy, run what was asked for."""
    (place,) = sys.argv[1:]
    heap.restart_with_jemalloc()
    os.environ |= _NO_THREADS | _ONE_HEAP
    for module in _MODULES:
        importlib.import_module(module)
    threads = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    if len(threads) > 1:
        sys.exit(f"a library has started threads ({', '.join(threads)}), which no copy would have: runs start cold")
    # What is here now is never garbage: looking through it would write to pages that copies share.
    gc.collect()
    gc.freeze()
    template = _Template(place)
    print(f"copies are made for whoever asks at {place}", flush=True)
    arguments = template.serve()
    if arguments is not None:
        _run(arguments)


class _Template:
    """Listens, forks, and tells each client how its copy ended."""

    def __init__(self, place: str) -> None:
        Path(place).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(place)
        os.chmod(place, 0o600)
        self._listener.listen(128)
        self._clients: dict[int, socket.socket] = {}
        self._ended, self._wake = os.pipe()
        os.set_blocking(self._ended, False)
        os.set_blocking(self._wake, False)

    def serve(self) -> list[str] | None:
        """Return the arguments of a request, in the copy that is to run them; None when it has been told to end."""
        stopping: list[int] = []
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while not stopping:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        client, _ = self._listener.accept()
                        arguments = self._answer(client)
                        if arguments is not None:
                            return arguments
                    else:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._ended, 4096)
                        self._reap()
        return None

    def _answer(self, client: socket.socket) -> list[str] | None:
        """Fork for a request; return its arguments in the copy."""
        client.settimeout(_REQUEST_S)
        try:
            request, files = _receive(client)
        except (OSError, ValueError):  # it is gone, or no client of ours
            client.close()
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for other in (self._listener, *self._clients.values()):
                other.close()
            os.close(self._ended)
            os.close(self._wake)
            client.settimeout(None)
            _become(request, files)
            client.sendall(f"copy {os.getpid()}\n".encode())
            threading.Thread(target=_end_with, args=(client,), name="symadj-warm", daemon=True).start()
            arguments: list[str] = request["arguments"]
            return arguments
        for file in files:
            os.close(file)
        self._clients[pid] = client
        return None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            client = self._clients.pop(pid, None)
            if client is not None:
                with client, contextlib.suppress(OSError):
                    client.sendall(f"status {os.waitstatus_to_exitcode(status)}\n".encode())


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request and the three files that came with it.

    Raises:
        OSError: the client is gone, or too slow.
        ValueError: it is no request.
    """
    files = array.array("i")
    room = socket.CMSG_SPACE(_STANDARD_FILES * files.itemsize)
    received, ancillary, _, _ = client.recvmsg(2**16, room)
    for _level, _kind, content in ancillary:
        files.frombytes(content[: len(content) - len(content) % files.itemsize])
    try:
        while not received.endswith(b"\n"):
            more = client.recv(2**16)
            if not more:
                raise ValueError("it ended before its last line did")
            received += more
        if len(files) != _STANDARD_FILES:
            raise ValueError(f"{len(files)} files came with it, not stdin, stdout and stderr")
        request: dict[str, Any] = json.loads(received)
    except (OSError, ValueError):
        for file in files:
            os.close(file)
        raise
    return request, list(files)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Make this process what a new one would be that the client had started."""
    import numpy

    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.umask(request["umask"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering=1, closefd=False)  # noqa: SIM115
        for number, mode in enumerate(("r", "w", "w"))
    )
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    for name, limits in request["limits"].items():
        with contextlib.suppress(OSError, ValueError):  # more than this process may have
            resource.setrlimit(getattr(resource, name), tuple(limits))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
    # How soon the kernel ends it should memory run out: Ray wants its workers to go first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(request["oom_score_adj"]))
    # Every copy would draw the same numbers.
    numpy.random.seed()


def _end_with(client: socket.socket) -> None:
    """End this process when the one that asked for it has: whoever ends that one means this one."""
    with contextlib.suppress(OSError):
        client.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(arguments: list[str]) -> None:
    """Run a command line as Python would: ``-m MODULE ...`` or ``FILE ...``."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
