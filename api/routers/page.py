"""The page for a browser: its files, which ask this API for all that they show.

`api/page` has what is ours, a module for each thing that the user sees; `api/uplot` has uPlot (MIT), which draws the
curves; `make uplot` says which version, and checks its hash.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException
from fastapi.responses import FileResponse, Response

router = APIRouter(include_in_schema=False)

FOLDERS = {name: Path(__file__).parents[1] / name for name in ("page", "uplot")}
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Pictures of jobs come as blobs: the page fetches them with the user's key, which no address has.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    f"{folder}/{file.name}": file
    for folder, place in FOLDERS.items()
    for file in sorted(place.iterdir())
    if file.suffix in MEDIA_TYPES
}


@router.get("/")
def show_page(accept: Annotated[str, Header(max_length=1000)] = "*/*") -> Response:
    """Answer the page to a browser; to others there is nothing here."""
    if not any(item.partition(";")[0].strip().lower() == "text/html" for item in accept.split(",")):
        raise HTTPException(404, headers={"Vary": "Accept"})
    return _file("page/index.html", {"Content-Security-Policy": POLICY, "Vary": "Accept"})


def _file(name: str, headers: dict[str, str]) -> FileResponse:
    file = FILES[name]
    # A browser asks each time whether the file is still that of this version.
    return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers={"Cache-Control": "no-cache"} | headers)


for _name in FILES:
    router.add_api_route(f"/{_name}", partial(_file, _name, {}), name=_name, response_class=FileResponse)
