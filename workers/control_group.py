"""What the kernel says of the memory of this process's control group (its container), and of the whole node.

A process that is killed for want of memory can't say why it died, and a small file may announce any size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ControlGroup", "available_memory"]


@dataclass(frozen=True)
class _Names:
    """What the files of a version of control groups are called."""

    events: str
    limit: str
    used: str
    peak: str
    inactive: str


_FIRST = _Names(
    "memory.oom_control",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "total_inactive_file",
)
_SECOND = _Names("memory.events", "memory.max", "memory.current", "memory.peak", "inactive_file")


@dataclass(frozen=True)
class ControlGroup:
    """The memory of this process's control group, as it was when it was looked at.

    Attributes:
        oom_kills: processes of the group that the kernel killed because memory ran out; None: it keeps no count.
        limit: bytes, the smallest of the group's own and those around it; None: there is none.
        peak: most bytes that the group ever held; None: the kernel does not say.
        free: bytes up to the nearest limit, files that need not stay in memory left out; None: there is no limit.
    """

    oom_kills: int | None
    limit: int | None
    peak: int | None
    free: int | None

    @classmethod
    def read(cls, root: Path = Path("/")) -> ControlGroup:
        """Look at the group.

        Args:
            root: of the file system, for tests.
        """
        kills, peak = None, None
        rooms: list[tuple[int, int]] = []
        for names, folder in _folders(root):
            kills = _value(folder / names.events, "oom_kill") if kills is None else kills
            peak = _value(folder / names.peak) if peak is None else peak
            limit, used = _value(folder / names.limit), _value(folder / names.used)
            # Without a limit the first version has the largest number of pages that it knows.
            if limit is not None and used is not None and limit < 1 << 60:
                inactive = _value(folder / "memory.stat", names.inactive) or 0
                rooms.append((limit, max(0, limit - used + inactive)))
        if kills is None:  # of no container: the kernel's count of the whole machine
            kills = _value(root / "proc/vmstat", "oom_kill")
        return cls(
            kills,
            min((limit for limit, _ in rooms), default=None),
            peak,
            min((free for _, free in rooms), default=None),
        )


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process could still get, of its node and of its control group."""
    free = ControlGroup.read(root).free
    of_node = _value(root / "proc/meminfo", "MemAvailable:")
    # Where the kernel says nothing of what is free (not Linux), all that there is.
    bytes_of_node = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if of_node is None else of_node * 1024
    return bytes_of_node if free is None else min(free, bytes_of_node)


def _folders(root: Path) -> Iterator[tuple[_Names, Path]]:
    """Yield the folders of the group and of those around it, the innermost first, of either version."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in groups):
        if controllers == "":
            base, names = root / "sys/fs/cgroup", _SECOND
        elif "memory" in controllers.split(","):
            base, names = root / "sys/fs/cgroup/memory", _FIRST
        else:
            continue
        # Within a container its own group is the root of what is mounted there.
        own = base / group.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(base):
                yield names, folder


def _value(file: Path, name: str | None = None) -> int | None:
    """Return the number in a file, or that of the line that begins with ``name``; None where there is none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
        if name is None:
            return int(lines[0][0])
        return next((int(words[1]) for words in lines if words and words[0] == name), None)
    except (OSError, ValueError, IndexError):  # "max", for one, is no limit
        return None
