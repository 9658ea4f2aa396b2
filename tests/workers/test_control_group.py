"""What control groups say of memory, in files as kernels of either version wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from symadj.workers.control_group import ControlGroup, available_memory

MEMINFO = "MemTotal:       24600000 kB\nMemFree:         1000000 kB\nMemAvailable:   20000000 kB\n"
# As Linux 6.1 wrote them, in a container with 256 MiB, of which 40 MiB are files.
SECOND = {
    "memory.max": "268435456\n",
    "memory.current": "104857600\n",
    "memory.peak": "268435456\n",
    "memory.events": "low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n",
    "memory.stat": "anon 62914560\nfile 41943040\ninactive_anon 0\ninactive_file 41943040\n",
}
FIRST = {
    "memory.limit_in_bytes": "268435456\n",
    "memory.usage_in_bytes": "104857600\n",
    "memory.max_usage_in_bytes": "268435456\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory.stat": "cache 41943040\nrss 62914560\ntotal_inactive_file 41943040\n",
}


def write(root: Path, group: str, folder: str, files: dict[str, str]) -> None:
    content = {"proc/self/cgroup": group + "\n", "proc/meminfo": MEMINFO}
    content |= {f"{folder}/{name}": text for name, text in files.items()}
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("group", "folder", "files"),
    [
        ("0::/job.slice", "sys/fs/cgroup/job.slice", SECOND),
        ("0::/outside", "sys/fs/cgroup", SECOND),  # within a container
        ("7:cpu:/a\n4:memory:/a", "sys/fs/cgroup/memory/a", FIRST),
        ("7:cpu:/a\n4:memory:/docker/a\n0::/", "sys/fs/cgroup/memory", FIRST),
    ],
)
def test_kills_limit_peak_and_what_is_free_are_those_of_the_process_own_control_group(
    tmp_path: Path, group: str, folder: str, files: dict[str, str]
) -> None:
    write(tmp_path, group, folder, files)
    assert ControlGroup.read(tmp_path) == ControlGroup(oom_kills=2, limit=2**28, peak=2**28, free=200 * 2**20 - 2**22)
    assert available_memory(tmp_path) == 200 * 2**20 - 2**22


def test_a_limit_of_a_group_around_it_counts(tmp_path: Path) -> None:
    write(tmp_path, "0::/pod/container", "sys/fs/cgroup/pod/container", SECOND | {"memory.max": "max\n"})
    write(tmp_path, "0::/pod/container", "sys/fs/cgroup/pod", SECOND | {"memory.max": "134217728\n"})
    found = ControlGroup.read(tmp_path)
    assert (found.limit, found.free) == (2**27, 2**27 - 60 * 2**20)


@pytest.mark.parametrize(
    "unlimited",
    [
        ("0::/", "sys/fs/cgroup", SECOND | {"memory.max": "max\n"}),
        ("4:memory:/", "sys/fs/cgroup/memory", FIRST | {"memory.limit_in_bytes": "9223372036854771712\n"}),
    ],
)
def test_without_a_limit_what_the_node_has_is_free(tmp_path: Path, unlimited: tuple[str, str, dict[str, str]]) -> None:
    write(tmp_path, *unlimited)
    assert ControlGroup.read(tmp_path).limit is None
    assert available_memory(tmp_path) == 20_000_000 * 1024


def test_without_control_groups_nothing_is_known(tmp_path: Path) -> None:
    assert ControlGroup.read(tmp_path) == ControlGroup(None, None, None, None)
    assert available_memory(tmp_path) > 0
