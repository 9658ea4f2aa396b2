#!/bin/bash
# fcsparser 0.2.8 reads integers of 24 bits, least significant byte first, 256 times too large, and integers of 64 bits
# and a range of 2^64 as zeros. It says nothing (numpy warns of a cast at 64 bits).
#
# FCS 3.1, 3.2.20 $PnB: any width of whole bytes; $BYTEORD 1,2,3,4 is the common order. 24 bits are written by Cytek.
# Seen: [1, 16777215] in 24 bits comes as [256, 16776960]; [1, 1099511627776] in 64 bits as [0, 0].
# Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fcsparser==0.2.8 six==1.17.0 numpy==1.26.4 pandas==2.2.3
cd "$folder"
venv/bin/python - <<'PYTHON'
import fcsparser


def read(values: list[int], bits: int) -> list[int]:
    data = b"".join(value.to_bytes(bits // 8, "little") for value in values)
    begin, end = 1024, 1024 + len(data) - 1
    pairs = {
        "$BEGINANALYSIS": 0, "$ENDANALYSIS": 0, "$BEGINSTEXT": 0, "$ENDSTEXT": 0, "$BEGINDATA": begin, "$ENDDATA": end,
        "$BYTEORD": "1,2,3,4", "$DATATYPE": "I", "$MODE": "L", "$NEXTDATA": 0, "$PAR": 1, "$TOT": len(values),
        "$P1N": "Index", "$P1B": bits, "$P1E": "0,0", "$P1R": 2**bits,
    }
    text = "/" + "".join(f"{key}/{value}/" for key, value in pairs.items())
    header = "FCS3.1    " + "".join(f"{place:>8}" for place in (58, 57 + len(text), begin, end, 0, 0))
    with open("cells.fcs", "wb") as file:
        file.write((header + text).encode().ljust(begin) + data + b"00000000")
    return [int(value) for value in fcsparser.parse("cells.fcs")[1]["Index"]]


narrow, wide = read([1, 2**24 - 1], 24), read([1, 2**40], 64)
print("[1, 16777215] in 24 bits:", narrow)
print("[1, 1099511627776] in 64 bits:", wide)
assert narrow == [256, 2**24 - 256], narrow
assert wide == [0, 0], wide
PYTHON
