"""Runs in an MLflow server, made by its own client: `python mlflow_runs.py URL RUNS STEPS`, in MLflow's environment.

Each has ten metrics; the newest has STEPS steps of each, the others ten. Prints the ids of the experiment and of the
newest run.
"""

from __future__ import annotations

import sys
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

METRICS = [f"metric_{number}" for number in range(10)]
OF_A_BATCH = 1000


def main() -> None:
    url, runs, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = MlflowClient(url)
    experiment = client.create_experiment(f"flows-{time.time():.0f}")
    for number in range(1, runs + 1):
        run = client.create_run(experiment, run_name=f"run-{number}").info.run_id
        length = steps if number == runs else 10
        now = int(time.time() * 1000)
        values = [
            Metric(name, 1.0 + 1000.0 / (step + 100) + step * 7919 % 101 / 1000.0, now + step, step)
            for step in range(1, length + 1)
            for name in METRICS
        ]
        client.log_batch(run, params=[Param("learning_rate", "0.01"), Param("gradient", "symplectic")])
        for start in range(0, len(values), OF_A_BATCH):
            client.log_batch(run, metrics=values[start : start + OF_A_BATCH])
        client.set_terminated(run)
    print(experiment, run)


if __name__ == "__main__":
    main()
