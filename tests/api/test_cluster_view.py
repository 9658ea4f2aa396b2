"""What the API knows of Ray's nodes, beside a Ray that is slow to answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from symadj.api import cluster_view
from symadj.api.cluster_view import ClusterView
from symadj.service.settings import Settings

PATIENCE_SECONDS = 60


def test_while_one_asks_a_slow_ray_the_others_are_told_what_it_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    view = ClusterView(Settings(ray_address="http://127.0.0.1:9"))
    assert view.nodes() is None, "nobody is there"
    asked, answer = threading.Event(), threading.Event()

    def ask() -> None:
        asked.set()
        answer.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(view, "_ask", ask)
    monkeypatch.setattr(cluster_view, "_FRESH_SECONDS", 0.0)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(view.nodes)
        assert asked.wait(PATIENCE_SECONDS)
        others = [threads.submit(view.nodes) for _ in range(3)]
        try:
            assert [other.result(PATIENCE_SECONDS / 4) for other in others] == [None] * 3
            assert not first.done()
        finally:
            answer.set()
