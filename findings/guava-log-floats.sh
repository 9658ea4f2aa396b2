#!/bin/bash
# A Guava Muse writes logarithms as floating-point values, with the decades ($PnE 4.0,1.0) and the gain of the linear
# channel beside them. By the standard floats are linear (FCS 3.1, $PnE), and a gain divides: neither reading is what was
# measured. FlowIO 1.4.0 takes the float for a channel number of a logarithmic amplifier with $PnR 10000: all 50081
# events of FSC-HLog come out between 0.3391 and 0.3401.
#
# The file is the one that fcsparser 0.2.8 ships as test data ("Guava Muse.fcs", second data set).
# Seen: FSC-HLog is log10(FSC-HLin) to 1.2e-7 as stored; after `as_array()` its largest and smallest value differ by 0.3 %.
# Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flowio==1.4.0 fcsparser==0.2.8 six==1.17.0 numpy==1.26.4 pandas==2.2.3
cd "$folder"
venv/bin/python - <<'PYTHON'
from pathlib import Path

import fcsparser
import flowio
import numpy as np

path = Path(fcsparser.__file__).parent / "tests/data/FlowCytometers/GuavaMuse/Guava Muse.fcs"
read = flowio.read_multiple_data_sets(str(path))[1]
place = {name: number for number, name in enumerate(read.pnn_labels)}
keywords = {name: read.text[f"p{place['FSC-HLog'] + 1}{name}"] for name in "eg"}
stored, scaled = read.as_array(preprocess=False), read.as_array()
error = np.abs(stored[:, place["FSC-HLog"]] - np.log10(stored[:, place["FSC-HLin"]])).max()
column = scaled[:, place["FSC-HLog"]]
print("$DATATYPE", read.data_type, "of FSC-HLog:", keywords, "stored is the logarithm to", error)
print("linear channel:", scaled[:3, place["FSC-HLin"]].tolist())
print("logarithmic channel by flowio:", column[:3].tolist(), "from", column.min(), "to", column.max())
assert read.data_type == "F" and keywords == {"e": "4.0,1.0", "g": "2.95"}
assert error < 1e-6
assert column.max() / column.min() < 1.01
PYTHON
