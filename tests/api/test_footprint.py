"""What the API takes of a machine beside a training."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil

from tests.conftest import TOY, running_api

MOST_BYTES = 150 * 10**6
_HEAVY = ("/torch/", "/ray/", "/pyarrow/", "/scipy/", "/pandas/")


def test_the_api_takes_under_150_mb_and_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    began = time.monotonic()
    with running_api(tmp_path) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        ready = time.monotonic() - began
        assert client.post("/api/v1/jobs", json=TOY).status_code == 201
        for path in ("/openapi.json", "/docs", "/api/v1/jobs", "/metrics"):
            assert client.get(path).status_code == 200
        process = psutil.Process(server.process.pid)
        held, files = process.memory_info().rss, {item.path for item in process.memory_maps()}
        seconds = sum(process.cpu_times()[:2])
    # Seconds depend on the machine and what else it does, and are told (`pytest -s`), not tested.
    print(f"\nready after {ready:.1f} s ({seconds:.1f} s of CPU), {held / 1e6:.0f} MB")
    assert held < MOST_BYTES
    assert [path for path in files for part in _HEAVY if part in path] == []
