#!/bin/bash
# FlowIO 1.4.0 takes a maker's keyword for the standard's: it removes every `$`, so that `P2G` overwrites `$P2G`.
#
# FCS 3.0 and 3.1, 3.2.12: only FCS-defined keywords begin with `$`; a maker may use any other name, P2G included.
# Seen: with $P2G/4/ and, behind it, P2G/8/, `as_array()` divides by 8. No warning. ($ within values is lost as well:
# $COM/paid 5$/ is read as "paid 5".)
# Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q flowio==1.4.0 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct

import flowio

events = [(1.0, 80.0), (2.0, 160.0)]
data = b"".join(struct.pack("<2f", *event) for event in events)
begin, end = 1024, 1024 + len(data) - 1
pairs = {
    "$BEGINANALYSIS": 0, "$ENDANALYSIS": 0, "$BEGINSTEXT": 0, "$ENDSTEXT": 0, "$BEGINDATA": begin, "$ENDDATA": end,
    "$BYTEORD": "1,2,3,4", "$DATATYPE": "F", "$MODE": "L", "$NEXTDATA": 0, "$PAR": 2, "$TOT": 2,
    "$P1N": "FSC-A", "$P1B": 32, "$P1E": "0,0", "$P1R": 1024,
    "$P2N": "PE-A", "$P2B": 32, "$P2E": "0,0", "$P2R": 1024, "$P2G": 4, "$COM": "paid 5$", "P2G": 8,
}
text = "/" + "".join(f"{key}/{value}/" for key, value in pairs.items())
header = "FCS3.1    " + "".join(f"{place:>8}" for place in (58, 57 + len(text), begin, end, 0, 0))
with open("cells.fcs", "wb") as file:
    file.write((header + text).encode().ljust(begin) + data + b"00000000")

read = flowio.FlowData("cells.fcs")
column = read.as_array()[:, 1].tolist()
print("PE-A by $P2G 4:", [20.0, 40.0], "by flowio:", column, "comment:", read.text["com"])
assert column == [10.0, 20.0], column
assert read.text["com"] == "paid 5", read.text["com"]
PYTHON
