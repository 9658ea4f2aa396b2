"""The whole system at work, as a user sees it: `make demo` runs this.

Starts the service, submits a spec over HTTP with the command line that users have, watches the training, compares
its memory with plain backpropagation on the same spec, shows what came of it, and stops the service.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from symadj.api.client import Client

SYMADJ = Path(sys.executable).with_name("symadj")
SPEC = Path(__file__).with_name("flow_cytometry.yaml")
# Enough for the peak of a step to show; the step's memory hardly changes later.
COMPARED_STEPS = 10


def main() -> int:
    """Run the demo; return 0 if the flow was trained and beats the Gaussian mixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("symadj-data"), help="folder of the service's data")
    data = parser.parse_args().data
    # A SIGTERM, of a CI's time limit say, must stop the service too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped, and the service with it."))
    started = time.monotonic()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    service = start(port, data)
    try:
        say(f"1. POST {SPEC.name} again with `gradient.kind: backprop`, for {COMPARED_STEPS} steps: to compare memory")
        changes = ["name=backprop", "gradient.kind=backprop", f"stop.max_steps={COMPARED_STEPS}", "evaluation=null"]
        if run("submit", str(SPEC), *(word for change in changes for word in ("--set", change)), url=url) != 0:
            return 1
        say(f"2. POST {SPEC.name} and watch it: two data-parallel workers, symplectic adjoint")
        status = run("submit", str(SPEC), "--watch", url=url)
        if status != 0:
            return status
        with Client(url) as client:
            trained, backprop = (client.jobs(name=name, limit=1).items[0].id for name in ("flow-cytometry", "backprop"))
            result = client.job(trained).result
        say("3. Memory of the symplectic adjoint beside backprop's, same spec, same steps")
        if run("memory", trained, backprop, url=url) != 0:
            return 1
    finally:
        stop(service)
    say(f"Done in {time.monotonic() - started:.0f} s. The service is stopped, its data is in {data}.")
    print(f"`make serve PORT={port} DATA={data}` serves it again: then the curl lines above answer, and")
    print(f"`{SYMADJ.parent}/symadj show {trained} --url {url}` shows this job.")
    assert result is not None
    assert result.baselines is not None
    mixture = result.baselines.gaussian_mixture
    if mixture is None or result.test_nll is None or mixture.test_nll is None or result.test_nll >= mixture.test_nll:
        print("The flow has not beaten the mixture of Gaussians.")
        return 1
    return 0


def start(port: int, data: Path) -> subprocess.Popen[str]:
    """Start the service and wait until it says that it is ready."""
    service = subprocess.Popen(
        [SYMADJ, "serve", "--port", str(port), "--data", str(data)], stdout=subprocess.PIPE, text=True
    )
    assert service.stdout is not None
    for line in service.stdout:
        print(line, end="", flush=True)
        if line.lstrip().startswith("stop"):
            return service
    sys.exit(f"the service did not start (status {service.wait()}); its logs are in {data / 'logs'}")


def stop(service: subprocess.Popen[str]) -> None:
    """Stop the service and all that it started."""
    service.send_signal(signal.SIGTERM)
    service.wait()


def run(*command: str, url: str) -> int:
    """Run a ``symadj`` command on this terminal; return its status."""
    print("$ symadj " + " ".join(command), flush=True)
    return subprocess.run([SYMADJ, *command, "--url", url], check=False).returncode


def free_port() -> int:
    """Return a port that is free now: the demo must not disturb a service on the usual one."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped, and the service with it.")
