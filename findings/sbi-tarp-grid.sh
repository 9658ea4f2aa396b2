#!/usr/bin/env bash
# sbi 0.27.0: what check_tarp says of a posterior depends on a grid: the wider it is, the better its area looks, and the
# p value is that of the number of bins, not of rows.
#
# TARP (Lemos et al., ICML 2023): f, the share of draws that are nearer to a random point than the true value is, is
# uniform between 0 and 1 if the posterior is right. run_tarp's levels reach from the least to the largest f seen, not
# from 0 to 1, and check_tarp takes its "area for levels above 0.5" from the middle of that grid on: where all f are
# small, as for draws that spread far, hardly anything of it is left. Its p value is that of a two-sample test between
# the values of the curve and the levels, as if these were independent samples, as many as there are bins.
#
# Right is N(x, 1), and 2000 rows. Seen: area 0.003 (spread 1), 0.14 (10), 0.04 (100; from 0.5 to 1 it is 0.125).
# p value of spread 2 with 20 bins: 0.85; of spread 1.3 with the default of 200: 0.47, where a Kolmogorov-Smirnov test
# of f itself has 4e-12; of the right posterior with 20,000: 0.008.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sbi==0.27.0 torch==2.13.0 numpy==2.4.6 scipy==1.17.1
cd "$work"
venv/bin/python - <<'PYTHON'
import torch
from sbi.diagnostics import check_tarp, run_tarp
from scipy.stats import kstest

torch.manual_seed(0)
xs = torch.randn(2000, 1)
thetas = xs + torch.randn(2000, 1)
references = thetas.min() + (thetas.max() - thetas.min()) * torch.rand(2000, 1)


class Normal:
    def __init__(self, spread: float) -> None:
        self.draws = xs + spread * torch.randn(1000, *xs.shape)

    def sample_batched(self, shape, x, show_progress_bars=False):
        return self.draws


def tarp(spread: float, bins: int | None = None) -> tuple[float, float, float]:
    posterior = Normal(spread)
    f = ((posterior.draws - references).abs() < (thetas - references).abs()).double().mean(0)[:, 0]
    area, p = check_tarp(*run_tarp(thetas, xs, posterior, references, 1000, show_progress_bar=False, num_bins=bins))
    true_area = float((1 - f.clamp(min=0.5)).mean()) - 3 / 8
    print(f"spread {spread}, {bins or 'default'} bins: area {area:.4f} ({true_area:.4f}), p {p:.2g}, of f", end=" ")
    print(f"{kstest(f.numpy(), 'uniform').pvalue:.2g}")
    return area, true_area, p


right, wide, widest = (tarp(spread) for spread in (1.0, 10.0, 100.0))
assert abs(right[0]) < 0.01 and abs(right[1]) < 0.01
assert wide[0] > 0.1 and wide[1] > 0.1
assert widest[0] < 0.05 and widest[1] > 0.12
assert tarp(2.0, 20)[2] > 0.5 and tarp(1.3)[2] > 0.1
assert tarp(1.0, 20_000)[2] < 0.05
PYTHON
