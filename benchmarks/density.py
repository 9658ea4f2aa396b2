"""Test NLL of a neural spline flow on the flow-cytometry data after ten minutes on one core: what a CNF has to beat.

``python -m benchmarks.density [--minutes 10]``. Data, split and transforms are those of
``recipes/flow_cytometry.yaml``; the peer is zuko's ``NSF``, trained by Adam with cosine decay over the time given,
clipping and an average of the weights, as the recipe is. The figure printed is comparable with the ``test_nll`` of that
job's result.
"""

from __future__ import annotations

import argparse
import copy
import math
import time

import torch
import zuko
from torch import Tensor, nn

from service.spec import BuiltinData
from workers.data import load_data

BATCH = 500
EMA_DECAY = 0.999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--transforms", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    data = load_data(BuiltinData(kind="builtin", name="flow_cytometry"))
    train, validation, test = (
        torch.from_numpy(part.rows).float() for part in (data.training, data.validation, data.test)
    )
    flow = zuko.flows.NSF(data.dim, transforms=options.transforms, hidden_features=(options.hidden,) * 2, randperm=True)
    average = copy.deepcopy(flow).requires_grad_(False)
    optimizer = torch.optim.Adam(flow.parameters(), options.learning_rate, fused=True)
    parameters = sum(p.numel() for p in flow.parameters())
    print(
        f"zuko {zuko.__version__} NSF, {options.transforms} transforms of {options.hidden} x 2, {parameters} parameters"
    )

    began, step, tell_at = time.process_time(), 0, 0.125
    while (share := (time.process_time() - began) / (60 * options.minutes)) < 1:
        optimizer.param_groups[0]["lr"] = options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        batch = train[torch.randint(len(train), (BATCH,))]
        loss = -flow().log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        step += 1
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, p in zip(average.parameters(), flow.parameters(), strict=True):
                mean.lerp_(p, 1 - decay)
        if share >= tell_at:
            tell_at += 0.125
            print(
                f"{60 * options.minutes * share:5.0f} s  step {step}  validation NLL {nll(average, validation)[0]:.3f}",
                flush=True,
            )
    mean, error = nll(average, test)
    print(f"after {step} steps in {options.minutes:g} min: test NLL {mean:.4f} +- {error:.4f} nats ({len(test)} rows)")


@torch.no_grad()
def nll(flow: nn.Module, rows: Tensor) -> tuple[float, float]:
    """Mean negative log-likelihood in nats, and its standard error."""
    values = torch.cat([-flow().log_prob(part) for part in rows.split(2000)]).double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


if __name__ == "__main__":
    main()
