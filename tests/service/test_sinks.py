"""Sinks: what is stored arrives in the trackers of others, once they are there, from where they were."""

from __future__ import annotations

import math
import struct
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from symadj.service.settings import SettingsError
from symadj.service.sinks import following, open_sinks
from symadj.service.sinks.following import Follower
from symadj.service.sinks.sink import Point, SinkError
from symadj.service.sinks.tensorboard import TensorboardSink
from symadj.service.store import Database
from symadj.service.store.tables import Job
from tests.service.lives import end
from tests.service.test_alerts import Training


def events_of(folder: Path) -> list[Event]:
    """Read what TensorBoard would: the records of all files, in the order of their names."""
    found = []
    for file in sorted(folder.glob("*tfevents*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    values = [(event.step, value) for event in events_of(folder) for value in event.summary.value]
    return [(step, value.simple_value) for step, value in values if value.tag == tag]


def tensorboard(database: Database, folder: Path) -> Follower:
    return Follower(database, "tensorboard", TensorboardSink(str(folder)), api_url="http://host:8000/")


def test_every_value_the_spec_and_the_end_of_a_job_are_in_tensorboards_files(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PIECE", 7)
    training, follower = Training(database, name="moons"), tensorboard(database, tmp_path)
    training.steps(20, nfe_forward=30)
    follower.look()
    training.steps(1, nfe_forward=40, loss="NaN")
    end(database, training.job_id, "failed", reason="diverged", message="nan")
    follower.look()
    follower.look()
    folder = tmp_path / training.job_id
    assert scalars(folder, "nfe_forward") == [*((step, 30.0) for step in range(1, 21)), (21, 40.0)]
    assert [step for step, loss in scalars(folder, "loss") if math.isnan(loss)] == [21]
    texts = {value.tag: value.tensor.string_val for event in events_of(folder) for value in event.summary.value}
    assert b'"name": "moons"' in texts["spec/text_summary"][0]
    assert b"failed diverged" in texts["end/text_summary"][0]


def test_a_follower_goes_on_from_where_the_killed_one_was(database: Database, tmp_path: Path) -> None:
    training = Training(database)
    training.steps(5)
    tensorboard(database, tmp_path).look()
    training.steps(5)
    tensorboard(database, tmp_path).look()
    assert scalars(tmp_path / training.job_id, "loss") == [(step, 1.0) for step in range(1, 11)]
    assert len(list((tmp_path / training.job_id).iterdir())) == 2, "what was taken is not given again"


class Away:
    """A sink that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.away = True
        self.taken: list[Any] = []
        self.ended = threading.Event()

    def begin(self, job: Job, after_seq: int) -> None:
        if self.away:
            self.away = False
            raise SinkError("no answer")

    def take(self, job: Job, points: Sequence[Point]) -> None:
        self.taken += [point.step for _, point in points]

    def end(self, job: Job, files: Sequence[str]) -> None:
        self.ended.set()


def test_a_sink_that_was_away_is_fed_all_of_it_when_it_is_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.01)
    training, sink, stopping = Training(database), Away(), threading.Event()
    training.steps(3)
    end(database, training.job_id, "cancelled")
    thread = threading.Thread(target=Follower(database, "away", sink, api_url="").run, args=(stopping,))
    thread.start()
    assert sink.ended.wait(60)
    stopping.set()
    thread.join()
    assert sink.taken == [1, 2, 3]


class Page(BaseHTTPRequestHandler):
    """A server of pages, which answers whatever it is asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""


@pytest.mark.parametrize("kind", ["mlflow", "trackio"])
def test_a_server_that_is_no_tracker_is_named(database: Database, kind: str) -> None:
    Training(database).steps(1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        place = f"{kind}:http://127.0.0.1:{server.server_port}"
        (sink,) = open_sinks(place).values()
        with pytest.raises(SinkError, match=f"127.0.0.1:{server.server_port}/.* no such server"):
            Follower(database, place, sink, api_url="").look()
        server.shutdown()


@pytest.mark.parametrize("text", ["wandb:project", "tensorboard", "tensorboard:", "tensorboard:/dev/null/x"])
def test_a_sink_that_there_is_not_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(SettingsError, match="SYMADJ_SINKS"):
        open_sinks(text)


def test_a_sink_whose_package_is_missing_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(SettingsError, match=r"'\.\[tensorboard\]'"):
        open_sinks(f"tensorboard:{tmp_path}")
