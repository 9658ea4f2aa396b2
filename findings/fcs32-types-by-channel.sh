#!/bin/bash
# FCS 3.2 gives each channel a type ($PnDATATYPE). FlowIO 1.4.0, fcsparser 0.2.8 and FlowCal 1.3.1 open such a file
# without a word, and return the bytes of its integers as floats: 7 becomes 9.8e-45.
#
# FCS 3.2, 3.3.14 and $PnDATATYPE: the type of a channel where it is not that of $DATATYPE. Instruments with an index
# or a sort number beside floats write it. FlowIO's documentation names 2.0 to 3.1, but none of the three refuses the
# version in the first six bytes.
# Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flowio==1.4.0 fcsparser==0.2.8 six==1.17.0 flowcal==1.3.1 numpy==1.26.4 pandas==2.2.3
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct

import FlowCal
import fcsparser
import flowio
import numpy as np

data = struct.pack("<fI", 1.5, 7) + struct.pack("<fI", 2.5, 9)
begin, end = 1024, 1024 + len(data) - 1
pairs = {
    "$BEGINANALYSIS": 0, "$ENDANALYSIS": 0, "$BEGINSTEXT": 0, "$ENDSTEXT": 0, "$BEGINDATA": begin, "$ENDDATA": end,
    "$BYTEORD": "1,2,3,4", "$DATATYPE": "F", "$MODE": "L", "$NEXTDATA": 0, "$PAR": 2, "$TOT": 2, "$CYT": "none",
    "$P1N": "FSC-A", "$P1B": 32, "$P1E": "0,0", "$P1R": 1024,
    "$P2N": "Index", "$P2B": 32, "$P2E": "0,0", "$P2R": 1024, "$P2DATATYPE": "I",
}
text = "/" + "".join(f"{key}/{value}/" for key, value in pairs.items())
header = "FCS3.2    " + "".join(f"{place:>8}" for place in (58, 57 + len(text), begin, end, 0, 0))
with open("cells.fcs", "wb") as file:
    file.write((header + text).encode().ljust(begin) + data + b"00000000")

read = {
    "flowio": flowio.FlowData("cells.fcs").as_array()[:, 1],
    "fcsparser": fcsparser.parse("cells.fcs")[1].to_numpy()[:, 1],
    "FlowCal": np.asarray(FlowCal.io.FCSData("cells.fcs"))[:, 1],
}
for name, column in read.items():
    print(f"Index is [7, 9], by {name}:", column.tolist())
    assert (0 < column).all() and (column < 1e-40).all(), (name, column)
PYTHON
