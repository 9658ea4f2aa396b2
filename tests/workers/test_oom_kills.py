"""Telling a process that the kernel killed for want of memory from one that died otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from symadj.workers.ray.oom_kills import oom_kills


@pytest.mark.parametrize(
    ("group", "counter", "content"),
    [
        ("0::/job.slice", "sys/fs/cgroup/job.slice/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("0::/outside", "sys/fs/cgroup/memory.events", "oom 3\noom_kill 2\n"),
        ("7:cpu:/a\n4:memory:/a", "sys/fs/cgroup/memory/a/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
)
def test_the_count_is_that_of_the_process_own_control_group(
    tmp_path: Path, group: str, counter: str, content: str
) -> None:
    for name, text in (("proc/self/cgroup", group + "\n"), (counter, content)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert oom_kills(tmp_path) == 2


def test_without_control_groups_nothing_is_known(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None
