"""Whether a cluster has room for a job."""

from __future__ import annotations

import pytest

from symadj.service.capacity import fits_now, most_memory, never_fits
from symadj.service.contract.spec.resources import CpuResources, GpuResources
from symadj.service.ray_jobs import Node

LAPTOP = [Node(cpus=2, gpus=0, memory=8 * 2**30)]
CLUSTER = [Node(cpus=8, gpus=2, memory=64 * 2**30)] * 2


def test_a_job_that_never_fits_is_told_the_numbers() -> None:
    lack = never_fits(CpuResources(workers=3), LAPTOP, 120)
    assert lack is not None
    assert "3 workers of 1 CPUs" in lack
    assert "room for 2" in lack
    assert "2 CPUs, 0 GPUs, 8.0 GiB" in lack


def test_a_job_that_never_fits_is_told_a_small_memory_in_its_own_unit() -> None:
    small = CpuResources.model_validate({"workers": 3, "memory_budget": "32MiB"})
    lack = never_fits(small, LAPTOP, 120)
    assert lack is not None
    assert "3 workers of 1 CPUs, 32.0 MiB each" in lack


def test_a_worker_must_fit_into_one_node() -> None:
    assert never_fits(CpuResources(workers=1, cpus_per_worker=10), CLUSTER, 120) is not None
    assert never_fits(CpuResources(workers=2, cpus_per_worker=8), CLUSTER, 120) is None
    assert never_fits(GpuResources(kind="gpu", workers=4), CLUSTER, 120) is None
    assert never_fits(GpuResources(kind="gpu", workers=1), LAPTOP, 120) is not None


@pytest.mark.parametrize(
    ("workers", "nodes", "most"),
    [
        (1, LAPTOP, 8),  # alone on the node
        (2, LAPTOP, 4),
        (3, LAPTOP, None),  # there are two CPUs
        (2, CLUSTER, 64),  # a node each
        (3, CLUSTER, 32),  # two of them on one node
        (3, [*LAPTOP, *CLUSTER], 32),  # the small node is left out
        (3, [LAPTOP[0], CLUSTER[0]], 64 / 3),  # all three on the large one leaves each more than the small one would
    ],
)
def test_a_worker_can_have_its_share_of_the_node_on_which_it_has_the_least(
    workers: int, nodes: list[Node], most: float | None
) -> None:
    found = most_memory(CpuResources(workers=workers), nodes)
    assert found == (None if most is None else int(most * 2**30))


def test_what_a_job_asks_for_does_not_limit_what_it_could_have() -> None:
    assert most_memory(CpuResources.model_validate({"memory_budget": "1GiB"}), LAPTOP) == 8 * 2**30


def test_memory_budgets_count() -> None:
    large = CpuResources.model_validate({"workers": 2, "memory_budget": "5GiB"})
    assert never_fits(large, LAPTOP, 120) is not None
    assert never_fits(large.model_copy(update={"workers": 1}), LAPTOP, 120) is None


def test_room_left_over_on_two_nodes_is_not_room_on_one() -> None:
    nodes = [Node(cpus=4, gpus=0, memory=2**35)] * 2
    taken = [CpuResources(workers=2, cpus_per_worker=3)]
    assert not fits_now(CpuResources(workers=1, cpus_per_worker=2), nodes, taken)
    assert fits_now(CpuResources(workers=2, cpus_per_worker=1), nodes, taken)


def test_what_running_jobs_took_is_not_given_twice() -> None:
    one = CpuResources(workers=1)
    assert fits_now(one, LAPTOP, [one])
    assert not fits_now(one, LAPTOP, [one, one])
