#!/usr/bin/env bash
# trackio 0.43.0: a value that is logged to a self-hosted server has the time at which it arrived there, not that of the log.
#
# The client sends metrics without their time, and the server writes down its own. While it is away (a restart, the
# network) values wait in the client; afterwards they all have nearly one time, and a chart over wall time has a gap and a
# jump that the training never had. Metrics of the system (GPU, CPU) are sent with their times.
#
# Seen: two values logged 6 s apart, while the server was stopped, are stored less than 3 s apart.
set -euo pipefail

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -KILL "$server"; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check trackio==0.43.0
port=$("$work/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cd "$work"
export TRACKIO_WRITE_TOKEN=of-this-finding
TRACKIO_DIR=$work/server GRADIO_SERVER_PORT=$port venv/bin/trackio show --host 127.0.0.1 > server.log 2>&1 < /dev/null &
server=$!
TRACKIO_DIR=$work/client venv/bin/python - "http://127.0.0.1:$port" "$server" <<'PYTHON'
import os
import signal
import sys
import time
from datetime import datetime

import httpx
import trackio

url, server = sys.argv[1], int(sys.argv[2])


def stored() -> list[dict]:
    arguments = {"project": "p", "run": "r", "metric_name": "loss"}
    return httpx.post(f"{url}/api/get_metric_values", json={"kwargs": arguments}).json().get("data") or []


def wait_until(true) -> None:
    for _ in range(600):
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("no answer within a minute")


wait_until(lambda: httpx.get(f"{url}/version").status_code == 200)
trackio.init(project="p", name="r", server_url=f"{url}?write_token={os.environ['TRACKIO_WRITE_TOKEN']}", auto_log_gpu=False)
trackio.log({"loss": 3.0}, step=0)
wait_until(lambda: len(stored()) == 1)
os.kill(server, signal.SIGSTOP)
trackio.log({"loss": 2.0}, step=1)
time.sleep(6)
trackio.log({"loss": 1.0}, step=2)
os.kill(server, signal.SIGCONT)
trackio.finish()
wait_until(lambda: len(stored()) == 3)
times = [datetime.fromisoformat(value["timestamp"]) for value in stored()]
apart = (times[2] - times[1]).total_seconds()
print(f"logged 6.0 s apart, stored {apart:.1f} s apart")
assert apart < 3
PYTHON
