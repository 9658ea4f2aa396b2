#!/usr/bin/env bash
# torch 2.13.0: the first optimiser of a process loads the compiler (torch._dynamo, and sympy with it), although nothing
# is compiled: 71 MiB in each process that trains.
#
# The methods of torch.optim.Optimizer are marked as not to be compiled, by a decorator that imports the compiler when
# one of them is called first. Whoever measures what a rank holds at rest, before its optimiser is made, measures that
# much too little; whoever measures a first step finds it in the step's peak. Processes that are forked from one that
# has imported torch._dynamo share it.
#
# Seen, Linux on x86-64: SGD of one weight loads 824 modules in 1.6 s, and 224 MiB become 295. A backward pass before it
# loads none of them, and a second optimiser nothing more.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import sys
import time

import torch


def held() -> tuple[int, int]:
    """Return how many modules are loaded, and the resident MiB."""
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return len(sys.modules), kib // 1024


weight = torch.ones(1, requires_grad=True)
(2 * weight).sum().backward()
before, began = held(), time.monotonic()
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
torch.optim.SGD([weight], lr=0.1).step()
first, seconds = held(), time.monotonic() - began
torch.optim.Adam([weight], lr=0.1)
second = held()
print(f"before: {before[0]} modules, {before[1]} MiB; with SGD of one weight: {first[0]} modules, {first[1]} MiB, after")
print(f"{seconds:.1f} s; with another optimiser: {second[0]} modules, {second[1]} MiB")
assert "torch._dynamo" in sys.modules and "sympy" in sys.modules
assert first[0] - before[0] > 300 and first[1] - before[1] > 30 and second[1] - first[1] < 5
PYTHON
