"""The service around ``symadj_core``: ``symadj.api``, ``symadj.service`` and ``symadj.workers``.

In the repository these are links to the folders of the same name at the top, so that the folders stay where a newcomer
looks for them, and an installed symadj takes no name (``api``, ``service``) that a user's own project may have.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Look the version up when somebody asks for it: every process imports this package, and few do."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("symadj")
    except PackageNotFoundError:
        # The repository itself is on Python's path, as on a machine that reaches no package index.
        return "not installed"
