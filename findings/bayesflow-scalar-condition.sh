#!/usr/bin/env bash
# bayesflow 2.0.12: optimal transport with conditions compares them by their angle. A condition of one number has no
# angle but its sign, so that conditions of one sign count as equal, and the plan is that without conditions.
#
# FlowMatching(use_optimal_transport=True) asks for it by default (condition_ratio 0.01), so that a condition meets the
# whole base and not only the part that lies near its data (Cheng and Schwing 2025). With one positive condition, say a
# time or a concentration, it meets that part alone, and nothing is said.
#
# Seen: the largest difference of the two plans is 0, though the conditions go from 1 to 4, and base samples and the
# conditions that they are paired with are correlated by more than 0.9.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check bayesflow==2.0.12 keras==3.15.1 jax==0.10.2
cd "$work"
KERAS_BACKEND=jax venv/bin/python - <<'PYTHON'
import numpy as np
from bayesflow.networks.defaults import OPTIMAL_TRANSPORT_DEFAULTS
from bayesflow.utils.optimal_transport import optimal_transport
from bayesflow.utils.optimal_transport.log_sinkhorn import log_sinkhorn_plan

rng = np.random.default_rng(0)
condition = np.linspace(1, 4, 256, dtype=np.float32)[:, None]
data = ((condition - 2.5) + 0.1 * rng.standard_normal((256, 1))).astype(np.float32)
base = rng.standard_normal((256, 1)).astype(np.float32)
options = dict(OPTIMAL_TRANSPORT_DEFAULTS)
method = options.pop("method")
print("FlowMatching's defaults:", method, options)

plans = [np.exp(log_sinkhorn_plan(base, data, conditions=given, **options)) for given in (condition, None)]
difference = float(np.abs(plans[0] - plans[1]).max())
_, _, met = optimal_transport(base, data, conditions=condition, method=method, seed=0, **options)
correlation = float(np.corrcoef(base[:, 0], np.asarray(met)[:, 0])[0, 1])
print(f"largest difference of the plans with and without conditions: {difference:g} of {plans[1].max():g}")
print(f"correlation of base samples and their conditions: {correlation:.2f}")
assert difference <= 1e-3 * plans[1].max() and correlation > 0.9
PYTHON
