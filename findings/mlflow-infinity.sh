#!/usr/bin/env bash
# MLflow 3.17.2 with its default kind of store (SQLite): a metric that is infinite is read back as
# 1.7976931348623157e308, while one that is NaN stays NaN.
#
# A loss that overflowed is the usual end of a training that diverges; in MLflow it looks like a large, finite number.
#
# Seen: log_metric("loss", inf) reads 1.7976931348623157e+308, -inf reads -1.7976931348623157e+308, nan reads nan.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2
cd "$work"
venv/bin/python - <<'PYTHON'
import math

import mlflow

mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run() as run:
    for step, value in enumerate((1.0, math.inf, -math.inf, math.nan)):
        mlflow.log_metric("loss", value, step=step)
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
read = {metric.step: metric.value for metric in history}
print("read back:", [read[step] for step in range(4)])
largest = 1.7976931348623157e308
assert read[0] == 1.0 and read[1] == largest and read[2] == -largest and math.isnan(read[3])
PYTHON
