"""Test NLL of a neural spline flow on the data of a recipe after a stated time of one core: what a CNF has to beat.

``python -m benchmarks.density NAME [--minutes 10]``, NAME being that of a recipe (``flow_cytometry``, ``digits``,
``fashion_mnist``) or of a toy (``moons``; the rows are those of ``recipes/toys.yaml``). Data, split, transforms,
dequantisation's noise and size of batch are the recipe's. The peer is zuko's ``NSF``, trained by Adam with cosine decay
over the time given, clipping and an average of the weights, as the recipes are, and tested with the weights of its best
validation. The time is the processor's, of one thread and of training alone. The figures printed are comparable with
``test_nll``, ``test_nll_original_units`` and ``test_bits_per_dim`` of the recipe's result.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
import yaml
import zuko
from torch import Tensor, nn

from symadj.service.contract.spec import JobSpec
from symadj.workers.data import PreparedData, load_data

RECIPES = Path(__file__).parents[1] / "recipes"
EMA_DECAY = 0.999
VALIDATIONS, VALIDATION_ROWS = 16, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--transforms", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    data, batch_size = load_recipe(options.name)
    batches = data.batches(batch_size, 0)
    validation = torch.from_numpy(data.validation.head(VALIDATION_ROWS).rows).float()
    flow = zuko.flows.NSF(
        data.dim,
        bins=options.bins,
        transforms=options.transforms,
        hidden_features=(options.hidden,) * 2,
        randperm=data.dim > 2,  # of two columns, the order is turned from one transform to the next
    )
    average = copy.deepcopy(flow).requires_grad_(False)
    optimizer = torch.optim.Adam(flow.parameters(), options.learning_rate, fused=True)
    print(
        f"{options.name}: zuko {zuko.__version__} NSF, {options.transforms} transforms of {options.hidden} x 2, "
        f"{options.bins} bins, {sum(p.numel() for p in flow.parameters())} parameters"
    )

    seconds, spent, step, validated = 60 * options.minutes, 0.0, 0, 0
    best, best_nll = average, math.inf
    while spent < seconds:
        began = time.process_time()
        optimizer.param_groups[0]["lr"] = options.learning_rate * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        loss = -flow().log_prob(torch.from_numpy(batches.batch(step).rows).float()).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        step += 1
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, p in zip(average.parameters(), flow.parameters(), strict=True):
                mean.lerp_(p, 1 - decay)
        spent += time.process_time() - began
        if spent >= seconds * (validated + 1) / VALIDATIONS:
            validated += 1
            now = float(nll(average, validation, batch_size).mean())
            print(f"{spent:5.0f} s  step {step}  validation NLL {now:.3f}", flush=True)
            if now < best_nll:
                best, best_nll = copy.deepcopy(average), now
    print(f"after {step} steps in {spent:.0f} s: {tested(best, data, batch_size)}")


def load_recipe(name: str) -> tuple[PreparedData, int]:
    """Return the data of the recipe ``name``, or of ``toys`` with the toy ``name``, and the size of a batch."""
    file = RECIPES / f"{name}.yaml"
    document = yaml.safe_load((file if file.exists() else RECIPES / "toys.yaml").read_text())
    if not file.exists():
        document["data"]["name"] = name
    spec = JobSpec.model_validate(document)
    return load_data(spec.data), spec.batch_size


def tested(flow: nn.Module, data: PreparedData, batch_size: int) -> str:
    """Return the test NLL in words: of the transformed rows, the raw ones, and in bits/dim if they are dequantised."""
    values = nll(flow, torch.from_numpy(data.test.rows).float(), batch_size)
    original = values - torch.from_numpy(data.test.log_abs_det)
    told = f"test NLL {told_mean(values)} nats, {told_mean(original)} in original units"
    bits = data.bits_per_dim(1.0)
    return told + (f", {told_mean(original * bits)} bits/dim" if bits else "") + f" ({len(values)} rows)"


@torch.no_grad()
def nll(flow: nn.Module, rows: Tensor, piece: int) -> Tensor:
    """Negative log-likelihood of each row [n], in nats."""
    return torch.cat([-flow().log_prob(part) for part in rows.split(piece)]).double()


def told_mean(values: Tensor) -> str:
    return f"{float(values.mean()):.4f} +- {float(values.std() / len(values) ** 0.5):.4f}"


if __name__ == "__main__":
    main()
