#!/usr/bin/env bash
# torch 2.13.0 (CPU): a product of float32 matrices by oneDNN (mkldnn tensors) has 1.4 to 2.2 times the rounding error of
# the same product by torch.nn.functional.linear (MKL), if each sum has 256 terms or more.
#
# Sums of up to 128 terms are the same to the last bit. An adaptive solver whose tolerance is near what float32 resolves
# takes such errors for errors of its steps.
#
# Seen on an AMD EPYC with AVX-512, one thread, root mean square errors against float64:
#     terms  MKL      oneDNN   ratio
#       128  2.3e-06  2.3e-06  1.00
#       512  5.4e-06  9.1e-06  1.67
#      4096  1.7e-05  3.7e-05  2.18
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > rounding.py <<'PYTHON'
import torch

torch.set_num_threads(1)
torch.manual_seed(0)


def error(product, exact):
    return float((product.double() - exact).square().mean().sqrt())


ratios = {}
with torch.no_grad():
    for terms in (128, 512, 4096):
        x, weight = torch.randn(500, terms), torch.randn(430, terms)
        exact = x.double() @ weight.double().T
        by_mkl = torch.nn.functional.linear(x, weight)
        by_onednn = torch.nn.functional.linear(x.to_mkldnn(), weight).to_dense()
        errors = error(by_mkl, exact), error(by_onednn, exact)
        ratios[terms] = errors[1] / errors[0]
        print(f"{terms} {errors[0]:.1e} {errors[1]:.1e} {ratios[terms]:.2f}")
        assert torch.equal(by_mkl, by_onednn) == (terms == 128)
assert ratios[512] > 1.4 and ratios[4096] > 1.8, ratios
PYTHON
venv/bin/python -W ignore rounding.py
