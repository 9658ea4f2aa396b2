#!/usr/bin/env bash
# torch 2.13.0: the field of a continuous normalizing flow as users of torchdiffeq write it, which takes its divergence by
# torch.autograd.grad within forward, has a gradient; after field.compile(), torch's own call, it has none: double backward
# is not supported, although the user asks for one backward. A whole vector-Jacobian product of the same field, with that
# call of torch.autograd.grad within, is compiled and right, but only with a setting of the tracer that is off by default.
#
# Seen on Linux, x86-64, with g++: the gradient of the compiled field: RuntimeError; its product compiled as a function:
# Unsupported by default, and with torch._dynamo.config.trace_autograd_ops the numbers of the plain field.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 setuptools==80.9.0
cd "$work"
cat > field.py <<'PYTHON'
import torch
from torch import nn


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, t, state):
        with torch.enable_grad():
            y = state[:, :3]
            if not y.requires_grad:
                y.requires_grad_(True)
            dy = self.net(y) + t
            (row,) = torch.autograd.grad(dy.sum(), y, create_graph=True)
            return torch.cat([dy, row.sum(-1, keepdim=True)], 1)


def product(field, t, state, cotangent):
    with torch.enable_grad():
        leaf = state.detach().requires_grad_()
        return torch.autograd.grad(field(t, leaf), [leaf, *field.parameters()], cotangent)


def outcome(work):
    try:
        work()
        return "ok"
    except Exception as error:
        return type(error).__name__


torch.manual_seed(0)
field, t, state = Field(), torch.tensor(0.5), torch.randn(5, 4)
cotangent = torch.randn(5, 4)
expected = product(field, t, state, cotangent)
compiled = torch.compile(product, fullgraph=True)
by_default = outcome(lambda: compiled(field, t, state, cotangent))
torch._dynamo.reset()
with torch._dynamo.config.patch(trace_autograd_ops=True):
    found = compiled(field, t, state, cotangent)
same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected))
field.compile()
gradient = outcome(lambda: product(field, t, state, cotangent))
print(f"gradient of the compiled field: {gradient}; product: {by_default}; traced with the setting: {same}")
PYTHON
found=$(venv/bin/python -W ignore field.py 2>/dev/null)
echo "$found"
[ "$found" = "gradient of the compiled field: RuntimeError; product: Unsupported; traced with the setting: True" ]
