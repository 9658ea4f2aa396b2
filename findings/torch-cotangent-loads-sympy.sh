#!/usr/bin/env bash
# torch 2.13.0: `backward` and `torch.autograd.grad` import SymPy as soon as they are given a gradient of the output,
# whatever its shape: 35 MiB or more in each process that does, and as much in a first step's peak.
#
# The shape of a given gradient is compared with the output's by way of torch's symbolic shapes, which are imported for
# it. A scalar's backward pass, which is all that most training loops have, does not come there; vector-Jacobian
# products do, and so do the adjoints of solvers and the estimates of a divergence that are made of them. Whoever
# compares the memory of gradients by what their processes hold compares SymPy with none.
#
# Seen, Linux on x86-64: after a scalar's backward pass 224 MiB and no module of SymPy; one with a gradient loads 487
# modules, and 259 MiB are held.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import sys

import torch


def held() -> tuple[int, int]:
    """Return how many modules are loaded, and the resident MiB."""
    with open("/proc/self/status") as status:
        kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return len(sys.modules), kib // 1024


weights = torch.ones(3, requires_grad=True)
weights.sin().sum().backward()
scalar = held()
assert "sympy" not in sys.modules
weights.sin().backward(torch.ones(3))
vector = held()
print(f"a scalar: {scalar[0]} modules, {scalar[1]} MiB; with a gradient given: {vector[0]} modules, {vector[1]} MiB")
assert "sympy" in sys.modules and "torch._dynamo" not in sys.modules
assert vector[0] - scalar[0] > 200 and vector[1] - scalar[1] > 20
PYTHON
