"""How often the kernel has killed a process of this container (control group) because memory ran out.

A process that is killed so can't say why it died, and a job that needs too much memory would be tried again in vain.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["oom_kills"]


def oom_kills(root: Path = Path("/")) -> int | None:
    """Return the count of this process's control group; None where the kernel keeps none.

    Args:
        root: of the file system, for tests.
    """
    for path in _counters(root):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for name, _, value in (line.partition(" ") for line in lines):
            if name == "oom_kill":
                return int(value)
    return None


def _counters(root: Path) -> list[Path]:
    """Return where the count may be: of the second version of control groups, and of the first."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, group in (line.split(":", 2) for line in groups):
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.events"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.oom_control"
        else:
            continue
        # Within a container its own group is the root of what is mounted there.
        found += [base / group.lstrip("/") / name, base / name]
    return found
