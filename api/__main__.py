"""``python -m api``: the API alone, as ``symadj serve`` starts it."""

from __future__ import annotations

import argparse

import uvicorn


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    # Not by uvicorn's own command line, which puts the current folder before the installed packages.
    uvicorn.run("api.app:create_app", factory=True, host=arguments.host, port=arguments.port, access_log=False)


if __name__ == "__main__":
    main()
