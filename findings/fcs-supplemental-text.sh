#!/bin/bash
# FlowIO 1.4.0 and fcsparser 0.2.8 never read the supplemental TEXT segment: a gain, a marker or a spillover matrix that
# stands there is lost without a word. FlowCal 1.3.1 reads it.
#
# FCS 3.0 and 3.1, 3.2.3 and 3.2.4: optional keywords may stand in a second TEXT segment, at $BEGINSTEXT. $PnG is one.
# Seen: $P2G/4/ and $P2S/CD4/ there: flowio divides by nothing and shows no marker; fcsparser's metadata has neither.
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

data = struct.pack("<4f", 1.0, 80.0, 2.0, 160.0)
begin, end = 1024, 1024 + len(data) - 1
supplement = "/$P2G/4/$P2S/CD4/"
pairs = {
    "$BEGINANALYSIS": 0, "$ENDANALYSIS": 0, "$BEGINSTEXT": end + 1, "$ENDSTEXT": end + len(supplement),
    "$BEGINDATA": begin, "$ENDDATA": end, "$BYTEORD": "1,2,3,4", "$DATATYPE": "F", "$MODE": "L", "$NEXTDATA": 0,
    "$PAR": 2, "$TOT": 2,
    "$P1N": "FSC-A", "$P1B": 32, "$P1E": "0,0", "$P1R": 1024, "$P2N": "PE-A", "$P2B": 32, "$P2E": "0,0", "$P2R": 1024,
}
text = "/" + "".join(f"{key}/{value}/" for key, value in pairs.items())
header = "FCS3.1    " + "".join(f"{place:>8}" for place in (58, 57 + len(text), begin, end, 0, 0))
with open("cells.fcs", "wb") as file:
    file.write((header + text).encode().ljust(begin) + data + supplement.encode() + b"00000000")

read = flowio.FlowData("cells.fcs")
print("PE-A by $P2G 4: [20.0, 40.0], by flowio:", read.as_array()[:, 1].tolist(), "marker:", repr(read.pns_labels[1]))
assert read.as_array()[:, 1].tolist() == [80.0, 160.0]
assert read.pns_labels[1] == ""
meta = fcsparser.parse("cells.fcs")[0]
print("fcsparser's keywords have $P2G, $P2S:", "$P2G" in meta, "$P2S" in meta)
assert "$P2G" not in meta and "$P2S" not in meta
gain = FlowCal.io.FCSData("cells.fcs").amplifier_gain("PE-A")
print("FlowCal's gain:", gain)
assert gain == 4
PYTHON
