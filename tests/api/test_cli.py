"""The command line on specs and arguments as people write them."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from symadj import __version__
from symadj.service.contract.states import ReasonCode
from tests.api.conftest import NOW, Run, checkpoint
from tests.command import SYMADJ, run_symadj, symadj
from tests.conftest import ApiServer

TOY = "data: {kind: toy, name: moons}\n"


def test_a_spec_is_submitted_shown_listed_cancelled_and_deleted(api_server: ApiServer) -> None:
    changes = ("--trial", "--set", "name=müller 7", "--set", "gradient.kind=aca")
    submitted = symadj(api_server, "submit", "-", *changes, stdin=TOY)
    job_id = submitted.stdout.strip()
    assert job_id.startswith("job-"), submitted.stderr
    shown = symadj(api_server, "show", job_id).stdout
    assert "müller 7" in shown
    assert "aca" in shown
    assert job_id in symadj(api_server, "list", "--state", "queued", "--label", "trial=true", "--limit", "1000").stdout
    assert "cancelled" in symadj(api_server, "cancel", job_id).stdout
    assert symadj(api_server, "delete", job_id).returncode == 0
    assert "there is no job" in symadj(api_server, "show", job_id).stderr


def test_a_job_is_paused_resumed_and_gone_on_from(run: Run) -> None:
    server, job = run.server, run.job_id
    run.write_checkpoint(10, validation_nll=1.25)
    run.write_checkpoint(20)
    assert job in symadj(server, "checkpoint", job).stdout
    assert "pausing" in symadj(server, "pause", job).stdout
    run.end("paused")
    listed = symadj(server, "checkpoints", job).stdout
    assert "1.2500" in listed
    assert checkpoint(20)["name"] in listed
    changes = ("--set", "optimizer.learning_rate=1e-4", "--set", "early_stop.patience=3", "--set", "name=child")
    changed = symadj(server, "continue", job, "--step", "10", *changes)
    assert changed.returncode == 0, changed.stderr
    child = run.api.get(f"/api/v1/jobs/{changed.stdout.strip()}").json()
    assert child["parent"] == {"job": job, "checkpoint": checkpoint(10)["name"]}
    assert (child["spec"]["optimizer"]["learning_rate"], child["spec"]["early_stop"]["patience"]) == (1e-4, 3)
    assert f"{job}, {checkpoint(10)['name']}" in symadj(server, "show", child["id"]).stdout
    refused = symadj(server, "continue", job, "--set", "optimizer.rate=1")
    assert refused.returncode == 1
    assert "/optimizer/rate" in refused.stderr
    assert "queued" in symadj(server, "resume", job).stdout


def test_how_far_a_job_is_and_its_labels_are_listed_and_shown(run: Run) -> None:
    run.api.patch(f"/api/v1/jobs/{run.job_id}", json={"labels": {"team": "cytometry"}}).raise_for_status()
    run.send({"kind": "step", "time": NOW, "step": 7, "metrics": {"loss": 1.5, "validation_nll": 2.75}})
    for command in (("list", "--label", "team=cytometry"), ("show", run.job_id)):
        printed = symadj(run.server, *command).stdout
        for told in ("step 7", "validation_nll 2.75", "team=cytometry"):
            assert all(word in printed for word in told.split()), (command, told, printed)


def test_a_lost_attempt_is_shown_with_its_reason(run: Run) -> None:
    run.lose(ReasonCode.WORKER_LOST, "rank-1 was silent for 60 s.")
    run.claim_again()
    for command in ("attempts", "show"):
        assert "worker_lost: rank-1 was silent for 60 s." in symadj(run.server, command, run.job_id).stdout


def test_usage_is_shown_by_table(api_server: ApiServer) -> None:
    assert "telemetry_blocks" in symadj(api_server, "usage").stdout


@pytest.mark.parametrize(
    ("words", "spec", "told"),
    [
        (("submit", "-"), TOY + "solver: {rtol: -1}", "/solver/rtol"),
        (("submit", "-"), TOY + "name: 2020-01-01", "quote dates"),
        (("submit", "-"), TOY + "seed: .inf", "JSON"),
        (("submit", "-"), "&a {x: *a}", "JSON"),
        (("submit", "-"), "- a list", "no mapping"),
        (("submit", "-"), "a: [", "neither YAML nor JSON"),
        (("submit", "-", "--set", "name=[a"), TOY, "--set"),
        (("submit", "-", "--set", "name"), TOY, "field.field=value"),
        (("submit", "-", "--key", "ü"), TOY, "Idempotency-Key"),
        (("submit", "no-such-file.yaml"), "", "No such file"),
        (("show", ""), "", "not a job's id"),
        (("show", "../../healthz"), "", "not a job's id"),
        (("list", "--url", "http://[::1"), "", "not the address"),
        (("list", "--url", "localhost:8000"), "", "not the address"),
        (("list", "--url", "http://127.0.0.1:9"), "", "is the service running there"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    api_server: ApiServer, words: tuple[str, ...], spec: str, told: str
) -> None:
    result = symadj(api_server, *words, stdin=spec)
    assert result.returncode in {1, 2}
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_the_server_and_the_key_may_be_named_before_the_command(api_server: ApiServer, tmp_path: Path) -> None:
    elsewhere = {"SYMADJ_URL": "http://127.0.0.1:9"}
    assert run_symadj("--url", api_server.url, "list", environment=elsewhere).returncode == 0
    assert run_symadj("--url", "http://127.0.0.1:9", "list", "--url", api_server.url).returncode == 0
    empty = tmp_path / "key"
    empty.touch()
    refused = run_symadj("--api-key-file", str(empty), "--url", api_server.url, "list")
    assert (refused.returncode, "--api-key-file" in refused.stderr) == (2, True)


def test_a_job_is_labelled_cloned_and_tried_again(api_server: ApiServer) -> None:
    job_id = symadj(api_server, "submit", "-", "--set", "ema.decay=0.5", stdin=TOY).stdout.strip()
    assert "team=y" in symadj(api_server, "label", job_id, "team=y", "none=").stdout
    changes = ("--set", "evaluation=null", "--set", "gradient.kind=aca")
    cloned = symadj(api_server, "clone", job_id, *changes).stdout.strip()
    shown = json.loads(symadj(api_server, "show", cloned, "--json").stdout)
    assert (shown["spec"]["evaluation"], shown["spec"]["gradient"]["kind"]) == (None, "aca")
    assert (shown["spec"]["ema"], shown["labels"]) == ({"decay": 0.5}, {"team": "y"})
    assert "queued" in symadj(api_server, "retry", job_id).stderr
    symadj(api_server, "cancel", job_id)
    assert symadj(api_server, "retry", job_id).stdout.startswith("job-")
    assert symadj(api_server, "label", job_id, "team").returncode == 2


def test_the_version_is_printed(api_server: ApiServer) -> None:
    assert symadj(api_server, "--version").stdout == f"symadj {__version__}\n"
    assert __version__ == metadata.version("symadj")


def test_what_show_prints_is_told_to_be_a_job_and_how_to_submit_it_again(run: Run) -> None:
    shown = symadj(run.server, "show", run.job_id, "--json").stdout
    refused = symadj(run.server, "submit", "-", stdin=shown)
    assert refused.returncode == 2
    assert f"symadj clone {run.job_id}" in " ".join(refused.stderr.replace("│", " ").split())


def test_one_metric_is_followed_and_what_is_written_to_a_file_is_not(run: Run, tmp_path: Path) -> None:
    for words in (["loss", "--out", str(tmp_path / "loss.csv")], []):
        refused = symadj(run.server, "metrics", run.job_id, *words, "--follow")
        assert refused.returncode == 2
        assert "--follow" in refused.stderr
    assert not (tmp_path / "loss.csv").exists()


def test_a_metric_is_followed_to_the_end_of_its_job(run: Run) -> None:
    run.send(*({"kind": "step", "time": NOW, "step": step, "metrics": {"loss": 1 / step}} for step in (1, 2)))
    environment = {"SYMADJ_URL": run.server.url, "PATH": "/usr/bin:/bin"}
    command = [SYMADJ, "metrics", run.job_id, "loss", "-f"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert [following.stdout.readline() for _ in range(2)] == ["1\t1\n", "2\t0.5\n"]
        run.send({"kind": "step", "time": NOW, "step": 3, "metrics": {"loss": 4.0}})
        assert following.stdout.readline() == "3\t4\n"
        run.end("cancelled")
        assert following.stdout.read() == ""
        assert following.wait() == 0
