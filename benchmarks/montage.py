"""Pictures of jobs below each other in one PNG of modest size, as in docs/results.md.

``python -m benchmarks.montage OUT.png IN.png ... [--width 900]``: the inputs are what ``symadj download`` fetched.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

COLOURS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--width", type=int, default=900, help="of the result, in pixels")
    options = parser.parse_args()
    pictures = [shrunk(Image.open(path).convert("RGB"), options.width) for path in options.pictures]
    sheet = Image.new("RGB", (options.width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(options.out, optimize=True)


def shrunk(picture: Image.Image, width: int) -> Image.Image:
    """Return ``picture`` with this width and the same proportions."""
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
