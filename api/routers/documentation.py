"""The page that shows the API's own documentation, and all that it loads: Swagger UI, from this server alone.

The files of Swagger UI (Apache-2.0) are those of npm's package ``swagger-ui-dist``; `make swagger-ui` says which
version, and checks its hash.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "swagger_ui"
FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "start.js": "text/javascript",
}
# The pictures are in the style sheet of Swagger UI.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The addresses are relative, for a proxy that serves the API below a path.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>symadj</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""


@router.get("/docs", response_class=HTMLResponse)
@router.get("/redoc", response_class=HTMLResponse)
def show_documentation() -> HTMLResponse:
    """Show every endpoint, with its fields, and let them be tried."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})


def _send(name: str) -> FileResponse:
    return FileResponse(FOLDER / name, media_type=FILES[name])


for _name in FILES:
    router.add_api_route(f"/docs/{_name}", partial(_send, _name), name=_name, response_class=FileResponse)
