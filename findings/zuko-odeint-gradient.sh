#!/usr/bin/env bash
# zuko 1.6.0: the gradient of `odeint`, and so of its CNF, is not that of the state that it returns.
#
# Its documentation names the adaptive checkpoint adjoint (Zhuang et al., ICML 2020), which takes every accepted step
# again and differentiates it. The code instead takes a step of the adjoint equation backward from every checkpoint: the
# gradient is that of another discretisation, and off by the error of the steps. Here x' = sin(a x), from x = 1 over
# t = 0 to 2, a = 3, float64.
#
# Seen: x(2) is to the bit what the recorded steps give, taken again; dx(2)/da is off from autograd's through these steps by
# 7.9e-06 of itself at zuko's default tolerances (rtol 1e-5, atol 1e-6), 6.5e-04 at 1e-3, and 70 times itself at 1e-1.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zuko==1.6.0 torch==2.13.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import torch
from zuko.utils import dopri45, odeint

START = torch.tensor([1.0], dtype=torch.float64)


def distance(rtol: float) -> tuple[float, int]:
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def field(t, x):
        return torch.sin(a * x)

    end = odeint(field, START, 0.0, 2.0, phi=(a,), atol=rtol / 10, rtol=rtol)
    steps = end.grad_fn.steps
    (theirs,) = torch.autograd.grad(end.sum(), a)
    x, t = START, torch.zeros((), dtype=torch.float64)
    for _, after, dt in steps:
        x, t = dopri45(field, x, t, dt), after
    assert torch.equal(x, end)
    (exact,) = torch.autograd.grad(x.sum(), a)
    return abs(float((theirs - exact) / exact)), len(steps)


found = {rtol: distance(rtol) for rtol in (1e-1, 1e-3, 1e-5)}
for rtol, (off, steps) in found.items():
    print(f"rtol {rtol:g}: off by {off:.1e} in {steps} steps")
assert found[1e-1][0] > 10 and found[1e-3][0] > 1e-4 and found[1e-5][0] > 1e-6
PYTHON
