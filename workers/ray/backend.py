"""Ray Train's hook that joins the workers in one torch process group.

Ray's own ``TorchTrainer`` does the same, but loads torch into the driver and the controller as well, one after the
other: seconds of start-up and hundreds of megabytes in two processes that never touch a tensor. Here torch is
loaded only where it is used, in the workers, and there in all of them at once.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig

__all__ = ["ProcessGroupConfig"]


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]
    """Asks Ray Train for a torch process group over all workers.

    Attributes:
        backend: ``gloo`` or ``nccl``.
        timeout_s: how long a collective waits for a rank that does not come. Ranks differ by minutes when one of
            them fits baselines or draws; a rank that died is noticed long before, by its closed connection.
    """

    backend: str = "gloo"
    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[_ProcessGroupBackend]:
        return _ProcessGroupBackend


class _ProcessGroupBackend(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        import ray

        size = len(worker_group)
        if size == 1:
            return
        address, port = worker_group.execute_single(0, _free_address)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, backend_config.backend, address, port, rank, size, backend_config.timeout_s
                )
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        if len(worker_group) > 1:
            worker_group.execute(_leave)


def _free_address() -> tuple[str, int]:
    import ray
    from ray._common.network_utils import find_free_port

    return ray.util.get_node_ip_address(), find_free_port()


def _join(backend: str, address: str, port: int, rank: int, size: int, timeout_s: int) -> None:
    from datetime import timedelta

    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    # By itself the store, which asks nobody who they are, would listen on all addresses of the node.
    listening = _listen(address, port).detach() if rank == 0 else None
    store = dist.TCPStore(  # type: ignore[attr-defined]  # it is documented, and not declared
        address, port, size, rank == 0, timeout, master_listen_fd=listening
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
