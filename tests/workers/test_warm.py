"""A Python that has imported a run's libraries: from outside it is one that was just started."""

from __future__ import annotations

import array
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from symadj.workers.warm import setup_worker

SECONDS = 60
LOADED = "import sys; print('torch' in sys.modules)"


@dataclass
class Warm:
    """A template, and how a Python of its kind is started."""

    process: subprocess.Popen[str]
    place: Path

    def command(self, script: Path, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "symadj.workers.warm.interpreter", str(self.place), str(script), *arguments]


def template(folder: Path) -> Warm:
    """Start a template, and wait until it answers."""
    place = folder / "warm.sock"
    command = [sys.executable, "-m", "symadj.workers.warm.template", str(place)]
    environment = os.environ | {"RAY_LD_PRELOAD_ON_WORKERS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert str(place) in process.stdout.readline()
    return Warm(process, place)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """One template for the tests that leave it alive: its imports take seconds."""
    started = template(tmp_path_factory.mktemp("warm"))
    yield started
    started.process.terminate()
    assert started.process.wait(SECONDS) == 0


def script(folder: Path, text: str) -> Path:
    """Write a program."""
    file = folder / "program.py"
    file.write_text(text)
    return file


def ran(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_a_step_on_many_rows_holds_what_its_tensors_take_and_no_more(warm: Warm, tmp_path: Path) -> None:
    program = script(
        tmp_path,
        "import torch\n"
        "from symadj_core import FixedStep\n"
        "from symadj_core.flows import Block, Flow, MLPField\n"
        "from symadj_core.memory import LiveTensorMeter, PeakMeter\n"
        "from symadj_core.solvers.controller import EvenGrid\n"
        "torch.set_num_threads(1)\n"
        "controller = FixedStep(grid=EvenGrid(2))\n"
        "flow = Flow(Block(MLPField(6, (64, 64)), controller=controller, gradient='backprop'), 6)\n"
        "rows, meter = torch.randn(4000, 6), PeakMeter(torch.device('cpu'))\n"
        "def step():\n"
        "    flow.zero_grad()\n"
        "    flow(rows, seed=0).mean().backward()\n"
        "with LiveTensorMeter() as exact:\n"
        "    step()\n"
        "for _ in range(4):\n"
        "    with meter.window() as window:\n"
        "        step()\n"
        "held = None if window.host_peak_bytes is None else window.host_peak_bytes - window.host_start_bytes\n"
        "print(held and held / exact.peak_bytes)\n",
    )
    answer = ran(warm.command(program))
    if answer.stdout.strip() == "None":
        pytest.skip("this kernel gives no host peaks")
    # 1.7 with the heap of glibc 2.36.
    assert 0.9 < float(answer.stdout) < 1.1, answer.stderr


def test_a_training_step_loads_no_compiler(warm: Warm, tmp_path: Path) -> None:
    program = script(
        tmp_path,
        "import itertools, sys, torch\n"
        "from symadj_core import FixedStep\n"
        "from symadj_core.flows import Block, Flow\n"
        "from symadj_core.flows.fields import FIELDS\n"
        "from symadj_core.flows.integrands.divergence import DIVERGENCES\n"
        "from symadj_core.gradients import GRADIENTS\n"
        "from symadj.service.contract.spec.training import AdamOptimizer\n"
        "from symadj.workers.training.optimisers import build_optimizer\n"
        "names = itertools.product(('mlp', 'residual'), GRADIENTS, DIVERGENCES)\n"
        "for field, gradient, divergence in names:\n"
        "    kind = DIVERGENCES[divergence]()\n"
        "    block = Block(FIELDS[field](4, 4), controller=FixedStep(0.5), gradient=gradient, divergence=kind)\n"
        "    flow = Flow(block, 4)\n"
        "    optimizer = build_optimizer(AdamOptimizer(), list(flow.parameters()))\n"
        "    optimizer.zero_grad()\n"
        "    flow(torch.ones(3, 4), seed=0).mean().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])\n",
    )
    answer = ran(warm.command(program))
    assert answer.stdout.strip() == "[]", answer.stderr


def test_arrow_has_no_heap_of_its_own_in_a_copy(warm: Warm, tmp_path: Path) -> None:
    program = script(tmp_path, "import pyarrow\nprint(pyarrow.default_memory_pool().backend_name)\n")
    assert ran(warm.command(program)).stdout.strip() == "system"


def test_it_runs_a_program_with_the_environment_folder_and_files_of_whoever_starts_it(
    warm: Warm, tmp_path: Path
) -> None:
    program = script(
        tmp_path,
        "import os, sys\n"
        "print(os.environ['WANTED'], os.getcwd(), sys.argv[1:], 'torch' in sys.modules, __name__)\n"
        "print(sys.stdin.read(), file=sys.stderr)\n",
    )
    answer = subprocess.run(
        warm.command(program, "a", "b c"),
        input="what came in",
        env=os.environ | {"WANTED": "this"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    assert answer.stdout.split("\n")[0] == f"this {tmp_path} ['a', 'b c'] True __main__"
    assert answer.stderr == "what came in\n"


def test_what_a_program_changes_no_later_one_sees(warm: Warm, tmp_path: Path) -> None:
    changes = script(
        tmp_path,
        "import os, sys, types, numpy, torch\n"
        "os.environ['OF_THE_FIRST'] = 'secret'\n"
        "sys.modules['left_behind'] = types.ModuleType('left_behind')\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.held = torch.ones(2**24)\n"
        "print(numpy.random.random())\n",
    )
    first = ran(warm.command(changes), TOKEN="t" * 20)
    looks = script(
        tmp_path,
        "import os, sys, numpy, torch\n"
        "print('OF_THE_FIRST' in os.environ or 'TOKEN' in os.environ, 'left_behind' in sys.modules,\n"
        "    torch.get_default_dtype(), hasattr(torch, 'held'), numpy.random.random())\n",
    )
    second = ran(warm.command(looks))
    *seen, drawn = second.stdout.split()
    assert seen == ["False", "False", "torch.float32", "False"]
    assert drawn != first.stdout.strip(), "each draws numbers of its own"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("raise ValueError('wrong')", 1),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import os; os.abort()", -signal.SIGABRT),
    ],
)
def test_it_ends_as_the_program_does(warm: Warm, tmp_path: Path, program: str, status: int) -> None:
    assert ran(warm.command(script(tmp_path, program))).returncode == status


WAITS = "import os, signal, sys\nprint(os.getpid(), flush=True)\nsignal.pause()\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ends_it_ends_the_program(warm: Warm, tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(warm.command(script(tmp_path, WAITS)), stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        copy = psutil.Process(int(started.stdout.readline()))
        assert copy.pid != started.pid
        started.send_signal(number)
        copy.wait(SECONDS)
        assert started.wait(SECONDS) == -number


def test_a_copy_that_fails_before_it_runs_anything_is_told_from_one_that_ran(warm: Warm, tmp_path: Path) -> None:
    request = {"environment": {}, "folder": str(tmp_path / "gone"), "arguments": ["-m", "this"]}
    files = array.array("i", (0, 1, 2))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(warm.place))
        client.sendmsg([json.dumps(request).encode() + b"\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        assert client.makefile().read() == "status 1\n"


def test_a_signal_that_comes_when_the_program_has_just_ended_changes_nothing_of_how(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(SECONDS)
    place = tmp_path / "warm.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(SECONDS)
        listener.bind(str(place))
        listener.listen()
        started = subprocess.Popen([sys.executable, "-m", "symadj.workers.warm.interpreter", str(place), "program.py"])
        client, _ = listener.accept()
        with client:
            client.sendall(f"copy {ended.pid}\n".encode())
            handlers = Path(f"/proc/{started.pid}/status")
            while not int(re.findall(r"SigCgt:\s*(\w+)", handlers.read_text())[0], 16) >> signal.SIGUSR2 - 1 & 1:
                assert started.poll() is None
            started.send_signal(signal.SIGTERM)
            while int(re.findall(r"SigPnd:\s*(\w+)|ShdPnd:\s*(\w+)", handlers.read_text())[-1][-1], 16):
                assert started.poll() is None
            client.sendall(b"status 3\n")
            assert started.wait(SECONDS) == 3


SETUP = Path(setup_worker.__file__)
ENVIRONMENT = {"env_vars": {"WANTED": "${KNOWN}-${NOT_KNOWN}!"}}
SHOWS = "import os, sys\nprint(os.environ['WANTED'], 'torch' in sys.modules, sys.argv[1:])\n"


def as_ray_starts(warm: Warm, program: Path, **context: Any) -> list[str]:
    """The command by which a Ray node starts a process, with our script in place of its own."""
    interpreter = shlex.join([sys.executable, "-m", "symadj.workers.warm.interpreter", str(warm.place)])
    context = {"py_executable": interpreter} | ENVIRONMENT | context
    options = [f"--serialized-runtime-env-context={json.dumps(context)}", "--language=PYTHON"]
    return [sys.executable, str(SETUP), str(program), "--port=1", *options]


def test_a_process_of_ray_is_a_copy_with_the_environment_that_its_job_names(warm: Warm, tmp_path: Path) -> None:
    answer = ran(as_ray_starts(warm, script(tmp_path, SHOWS)), KNOWN="this")
    assert answer.stdout == "this-! True ['--port=1']\n", answer.stderr
    killed = ran(as_ray_starts(warm, script(tmp_path, "import os; os.kill(os.getpid(), 9)")))
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "context",
    [{"py_executable": sys.executable}, {"command_prefix": ["WANTED=prefixed; "]}],
    ids=["another Python", "a prefix"],
)
def test_what_is_no_copys_is_left_to_rays_own_script(warm: Warm, tmp_path: Path, context: dict[str, Any]) -> None:
    answer = ran(as_ray_starts(warm, script(tmp_path, SHOWS), **context), KNOWN="this")
    prefixed = "command_prefix" in context
    expected = f"{'prefixed' if prefixed else 'this-!'} {prefixed} ['--port=1']\n"
    assert answer.stdout == expected, answer.stderr


def test_without_a_template_it_is_python(tmp_path: Path) -> None:
    nobody = Warm(subprocess.Popen(["true"], text=True), tmp_path / "nobody.sock")
    assert nobody.process.wait() == 0
    for command in (nobody.command(script(tmp_path, LOADED)), as_ray_starts(nobody, script(tmp_path, LOADED))):
        answer = ran(command)
        assert (answer.stdout, answer.returncode) == ("False\n", 0)


@pytest.mark.slow
def test_a_killed_template_is_nobodys_loss(tmp_path: Path) -> None:
    mortal = template(tmp_path)
    program = script(tmp_path, "import os\nprint(os.getpid(), flush=True)\nprint(input())\n")
    with subprocess.Popen(mortal.command(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        started.stdout.readline()
        mortal.process.kill()
        mortal.process.wait()
        said, _ = started.communicate("it goes on\n", timeout=SECONDS)
    assert said == "it goes on\n"
    assert ran(mortal.command(script(tmp_path, LOADED))).stdout == "False\n", "the next one starts cold"
