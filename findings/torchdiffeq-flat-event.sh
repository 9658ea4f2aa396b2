#!/usr/bin/env bash
# torchdiffeq 0.2.5: the gradient of an event is next to zero where the event function is flat at its zero.
#
# Chen et al. (ICLR 2021): dt/dy0 = -(dg/dy0) / (dg/dt along the solution). Near the zero of g = (y - 1/2)^3 both are of
# the order of the error squared, and their ratio is that of g = y - 1/2. The library adds 1e-12 to the denominator,
# which is then all there is of it. y' = y (1 - y) from y0 = 0.1 reaches 1/2 at log 9, with dt/dy0 = -1/0.09 = -11.11.
#
# Seen: the same time by both functions; gradients -11.11 (linear) and 2.5e-09 (cubic).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torchdiffeq==0.2.5 torch==2.13.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import math

import torch
from torchdiffeq import odeint_event


def event(power: int) -> tuple[float, float]:
    y0 = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    t, _ = odeint_event(
        lambda t, y: y * (1 - y), y0, torch.tensor(0.0, dtype=torch.float64), event_fn=lambda t, y: (y - 0.5) ** power
    )
    t.backward()
    return t.item(), y0.grad.item()


(time, gradient), (cubic_time, cubic_gradient) = event(1), event(3)
print("times", time, cubic_time, "log 9 =", math.log(9))
print("gradients", gradient, cubic_gradient)
assert abs(time - math.log(9)) < 1e-5 and abs(cubic_time - math.log(9)) < 1e-5
assert abs(gradient + 1 / 0.09) < 1e-3
assert abs(cubic_gradient) < 1e-6
PYTHON
