"""What a process prints, read from the files that its stdout and stderr are: in lines, masked, and not too much.

The files are Ray's (of a worker, of a job's driver), so that nothing stands between a process and its output: what a
native library writes as it crashes is there, whoever reads it afterwards.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from symadj.service.contract.records import MAX_LOG_LINES, LogRecord, Stream
from symadj.service.contract.storable import LONGEST_LINE

__all__ = [
    "LAST_BYTES",
    "LINE_BYTES",
    "Mask",
    "Output",
    "OutputReader",
    "left_behind",
    "note_file",
    "note_outputs",
    "outputs_of_this_process",
]

# Of what a dead process printed last, bytes.
LAST_BYTES = 2**16
# So much of a line that has not ended is awaited; of a longer one a part is taken as a line.
_LONGEST_WAIT = 2**16
# A line counts as its own bytes and these.
LINE_BYTES = 100
# By which Ray tells its own reader of logs whose they are.
_MARKS_OF_RAY = (b":job_id:", b":actor_name:", b":task_name:")


# --------------------------------------------------------------------------------------------------- secrets

MASKED = "[masked]"
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY|AUTH")
# Shorter values are words that stand everywhere.
_SHORTEST_SECRET = 8
_SHAPES = (
    # Headers: Authorization: Bearer ..., 'authorization': 'Basic ...'
    re.compile(r"""(?i)(authorization["']?\s{0,3}[:=]\s{0,3}["']?(?:[a-z0-9-]{1,20}\s{1,3})?)[^\s"',;]+"""),
    re.compile(r"(?i)(\bbearer\s{1,3})[\w.~+/=-]{8,}"),
    # URLs with a user's password: the user goes, too.
    re.compile(r"(://)[^/\s:@]{0,256}:[^/\s@]{1,512}(?=@)"),
    # password=..., "aws_secret_access_key": "...", X-Amz-Signature=...; not numbers: 100 tokens are no secret.
    re.compile(
        r"""(?i)((?:passw(?:or)?d|secret|token|api[_-]?key|access[_-]?key|signature)[\w-]{0,40}["']?\s{0,3}[=:]\s{0,3}"""
        r"""["']?)(?![\d.,]+(?![\w.]))[^\s"'&,;)}\]]{6,}"""
    ),
    # Keys that say what they are: ours, AWS's, GitHub's, Hugging Face's, and signed tokens.
    re.compile(
        r"()\b(?:symadj_[a-z2-7]{47}|gh[pousr]_\w{30,}|hf_\w{30,}|(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w.-]{8,})\b"
    ),
)


class Mask:
    """Takes secrets out of a line: those that are known, and what looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        parts = {part.strip() for secret in secrets for part in secret.splitlines()}
        known = sorted((part for part in parts if len(part) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], *secrets: str) -> Mask:
        """Return one that knows these secrets, and the values of variables whose names say that they are secret."""
        named = (
            value
            for name, value in environment.items()
            if _SECRET_NAME.search(name.upper()) and not name.upper().endswith("_FILE")
        )
        return cls((*secrets, *named))

    def __call__(self, line: str) -> str:
        """Return the line without them."""
        if self._known is not None:
            line = self._known.sub(MASKED, line)
        for shape in _SHAPES:
            line = shape.sub(lambda match: f"{match[1]}{MASKED}", line)
        return line


# ------------------------------------------------------------------------------------------------ what is read


@dataclass(frozen=True)
class Output:
    """A file that a process prints to: its ``stdout``, its ``stderr``, or the ``output`` of both."""

    stream: Stream
    path: str


def outputs_of_this_process() -> tuple[Output, ...]:
    """Return the files that this process prints to; none for a terminal or a pipe (Linux)."""
    found: list[Output] = []
    streams: tuple[tuple[Stream, int], ...] = (("stdout", 1), ("stderr", 2))
    for stream, number in streams:
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
            if stat.S_ISREG(os.stat(path).st_mode):
                found.append(Output(stream, path))
        except OSError:
            continue
    if len(found) == 2 and found[0].path == found[1].path:
        return (Output("output", found[0].path),)
    return tuple(found)


class OutputReader:
    """Reads what was printed to one file, from a place in it on.

    Args:
        output: which.
        mask: for every line.
        position: bytes of it that were read before.
    """

    def __init__(self, output: Output, mask: Mask, position: int = 0) -> None:
        self.output = output
        self._mask = mask
        self._position = position

    def read(self, most_bytes: int, *, to_the_end: bool = False) -> list[LogRecord]:
        """Return the lines that have come: the newest ones that count ``most_bytes``, and how much was before them.

        Args:
            most_bytes: a line counts as its own bytes and `LINE_BYTES`; the last one is returned in any case.
            to_the_end: a last line that has not ended is taken, too.
        """
        try:
            with open(self.output.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                begin = max(self._position, size - max(most_bytes, _LONGEST_WAIT))
                file.seek(begin)
                data = file.read(size - begin) if size > begin else b""
        except OSError:  # it is gone, or lies on another node
            return []
        end = data.rfind(b"\n") + 1
        if to_the_end or len(data) - end >= _LONGEST_WAIT:
            end = len(data)
        *whole, last = data[:end].split(b"\n")
        lines = [line + b"\n" for line in whole] + ([last] if last else [])
        # Where bytes were passed over, the first one is the end of a line.
        kept: deque[bytes] = deque()
        for line in reversed(lines[1:] if begin > self._position else lines):
            most_bytes -= len(line) + LINE_BYTES
            if most_bytes < 0 and kept:
                break
            kept.appendleft(line)
        left_out = begin + end - sum(map(len, kept)) - self._position
        return list(self._records(list(kept), left_out)) if kept or left_out else []

    def _records(self, lines: Sequence[bytes], left_out: int) -> Iterator[LogRecord]:
        self._position += left_out
        for start in range(0, max(1, len(lines)), MAX_LOG_LINES):
            part = lines[start : start + MAX_LOG_LINES]
            self._position += sum(map(len, part))
            texts = [self._text(line) for line in part if not line.startswith(_MARKS_OF_RAY)]
            if texts or left_out:
                yield LogRecord(stream=self.output.stream, lines=texts, left_out_bytes=left_out, end=self._position)
            left_out = 0

    def _text(self, line: bytes) -> str:
        # What a bar of progress has drawn last; four bytes a character at most.
        shown = line.rstrip(b"\r\n").rpartition(b"\r")[2][: 4 * LONGEST_LINE]
        return self._mask(shown.decode("utf-8", "replace"))


# -------------------------------------------------------------------------- what a process leaves to its heirs


def note_file(spool: Path) -> Path:
    """Return the file beside the spool of a source that says where it prints, and is locked while it lives."""
    return spool.with_suffix(".outputs")


def note_outputs(spool: Path, outputs: Sequence[Output]) -> IO[bytes]:
    """Write down where a source prints; the file stays locked until it is closed, or the process has died.

    Raises:
        OSError: the disk does not take it.
    """
    spool.parent.mkdir(parents=True, exist_ok=True)
    note = note_file(spool).open("wb")
    fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
    note.write(json.dumps([[output.stream, output.path] for output in outputs]).encode())
    note.flush()
    return note


@contextmanager
def left_behind(spool: Path, mask: Mask) -> Iterator[tuple[list[LogRecord], list[LogRecord]]]:
    """Give what a source that died has printed, and its spool does not have; and the end of what it printed in all.

    While the block lasts, nobody else takes them; when it ends well, nobody will. Both are empty where the source
    lives, or has put all into its spool, or has printed on another node.
    """
    try:
        note = note_file(spool).open("rb")
    except OSError:
        yield [], []
        return
    with note:
        try:
            fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield [], []
            return
        try:
            outputs = [Output(stream, path) for stream, path in json.loads(note.read())]
        except ValueError:  # it died as it wrote this
            outputs = []
        positions = _positions(spool)
        rest, last = [], []
        for output in outputs:
            rest += OutputReader(output, mask, positions.get(output.stream, 0)).read(LAST_BYTES, to_the_end=True)
            last += OutputReader(output, mask).read(LAST_BYTES, to_the_end=True)
        yield rest, last
        note_file(spool).unlink(missing_ok=True)


def _positions(spool: Path) -> dict[str, int]:
    """Return how many bytes of each stream the records of a spool have."""
    found: dict[str, int] = {}
    try:
        with spool.open("rb") as file:
            for line in file:
                if b'"kind":"log"' in line and line.endswith(b"\n"):
                    record = json.loads(line)
                    found[record["stream"]] = record["end"]
    except OSError:
        pass
    return found
