"""A run and the order that tells it what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from symadj.service.contract.order import PLACE_VARIABLE, TOKEN_VARIABLE
from tests.workers.ingest import TOKEN, IngestServer

# The most that a spec may have.
COLUMNS = [f"{number:05d}".ljust(200, "x") for number in range(10_000)]


def test_a_run_starts_whatever_the_size_of_its_spec(ingest: IngestServer, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    data = {"kind": "file", "path": "rows.csv", "columns": COLUMNS}
    order = ingest.order({"data": data}, str(tmp_path)).model_copy(update={"data_roots": (str(tmp_path),)})
    place = tmp_path / "order.json"
    place.write_text(order.model_dump_json())
    assert place.stat().st_size > 2_000_000, "Linux takes no variable of this size"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SYMADJ_")}
    token = tmp_path / "order.token"
    token.write_text(TOKEN)
    environment[PLACE_VARIABLE] = str(place)
    run = subprocess.run([sys.executable, "-m", "symadj.workers.run"], env=environment, timeout=120, check=False)
    assert run.returncode == 0
    (outcome,) = (record for record in ingest.records["driver"] if record["kind"] == "outcome")
    assert (outcome["state"], outcome["reason"]) == ("failed", "data_error")
    assert "has no column" in outcome["message"]
    assert not token.exists(), "it is needed once"


def test_an_order_that_is_not_there_ends_the_run_with_its_place(tmp_path: Path) -> None:
    environment = os.environ | {PLACE_VARIABLE: str(tmp_path / "order.json"), TOKEN_VARIABLE: TOKEN}
    command = [sys.executable, "-m", "symadj.workers.run"]
    run = subprocess.run(command, env=environment, timeout=120, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"the order of this run can't be read at {tmp_path}/order.json" in run.stderr


def test_a_run_that_the_first_version_submitted_finds_its_order_in_its_environment(
    ingest: IngestServer, tmp_path: Path
) -> None:
    order = ingest.order({"data": {"kind": "file", "path": "none.npy"}}, str(tmp_path)).model_dump(mode="json")
    later = ("data_roots", "data_cache", "spool", "storage_patience_seconds", "flush_timeout_seconds")
    first = {name: value for name, value in order.items() if name not in later} | {"token": TOKEN}
    environment = os.environ | {
        "SYMADJ_RUN_ORDER": json.dumps(first),
        "SYMADJ_DATA_ROOTS": f"{tmp_path}:/nowhere",
        "SYMADJ_SPOOL_DIR": str(tmp_path / "spool"),
    }
    run = subprocess.run([sys.executable, "-m", "symadj.workers.run"], env=environment, timeout=120, check=False)
    assert run.returncode == 0
    (outcome,) = (record for record in ingest.records["driver"] if record["kind"] == "outcome")
    assert outcome["reason"] == "data_error"
    assert f"{tmp_path}, /nowhere" in outcome["message"]
