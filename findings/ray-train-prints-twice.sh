#!/usr/bin/env bash
# Ray 2.60.0: a line that a worker of Ray Train prints is in its node's logs twice, on stdout as printed and on stderr by a logger.
#
# Ray Train replaces print by a function that logs, and also prints where sys.stdout is not sys.__stdout__, as if somebody had
# redirected it. In every worker process of Ray it is not: Ray itself opens sys.stdout anew. Counts of lines are wrong by two,
# and what is printed to stdout is on stderr. RAY_TRAIN_ENABLE_PRINT_PATCH=0 leaves print as it is.
#
# Seen: by default 1 line in worker-*.out and 1 in worker-*.err; with RAY_TRAIN_ENABLE_PRINT_PATCH=0 1 and 0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray[train]==2.60.0"
cd "$work"
cat >train.py <<'PYTHON'
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop() -> None:
    print("one line")


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
DataParallelTrainer(loop, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path="/tmp", name="x")).fit()
session = ray._private.worker._global_node.get_session_dir_path()
ray.shutdown()
from pathlib import Path

counts = [
    sum(file.read_text(errors="replace").count("one line") for file in Path(session, "logs").glob(f"worker-*.{end}"))
    for end in ("out", "err")
]
print(*counts)
PYTHON
export RAY_USAGE_STATS_ENABLED=0 RAY_TRAIN_V2_ENABLED=1
sed -i "s|storage_path=\"/tmp\"|storage_path=\"$work/results\"|" train.py
usual=$(venv/bin/python train.py 2>errors || { cat errors >&2; exit 1; })
without=$(RAY_TRAIN_ENABLE_PRINT_PATCH=0 venv/bin/python train.py 2>errors || { cat errors >&2; exit 1; })
echo "by default: ${usual##*$'\n'}; with RAY_TRAIN_ENABLE_PRINT_PATCH=0: ${without##*$'\n'}"
test "${usual##*$'\n'}" = "1 1"
test "${without##*$'\n'}" = "1 0"
