"""Where the files of a spec may lie."""

from __future__ import annotations

import os
from pathlib import Path

from workers.data.errors import DataError
from workers.data.formats.raw import InputFile

__all__ = ["data_roots", "find_file", "resolve"]

ROOTS_VARIABLE = "SYMADJ_DATA_ROOTS"
DATA_VARIABLE = "SYMADJ_DATA"
# Where Debian's packages of data sets (dataset-fashion-mnist) put them.
_SYSTEM_ROOT = "/usr/share/datasets"


def data_roots() -> tuple[Path, ...]:
    """Return the folders that files are taken from, and from nowhere else.

    ``SYMADJ_DATA_ROOTS`` names them, separated as in ``PATH``. Without it they are ``datasets`` in the service's data
    folder and the system's data sets.
    """
    named = os.environ.get(ROOTS_VARIABLE)
    if named is not None:
        return tuple(Path(root) for root in named.split(os.pathsep) if root)
    return (Path(os.environ.get(DATA_VARIABLE, "symadj-data")) / "datasets", Path(_SYSTEM_ROOT))


def resolve(path: str) -> Path:
    """Return the file or folder that a spec names by ``path``: the first that exists below a data root.

    Links are followed first, so that neither ``..`` nor a link leads out of the roots.

    Raises:
        DataError: there is no such file below a root.
    """
    roots = [root.resolve() for root in data_roots()]
    for root in roots:
        try:
            # An absolute path replaces the root, and must lie in one all the same.
            found = (root / path).resolve()
            inside = any(found.is_relative_to(allowed) for allowed in roots)
            if inside and found.exists():
                return found
        except (OSError, ValueError, RuntimeError):  # too long a name, no permission, a link to itself
            continue
    allowed = ", ".join(map(str, roots)) or "none is set"
    raise DataError(
        f"{path} is not there below a data root ({allowed}): put it there, or add its folder to {ROOTS_VARIABLE} where "
        "the service is started",
        file=path,
    )


def find_file(name: str) -> InputFile:
    """Return the file that a spec calls ``name``.

    Raises:
        DataError: it is missing, or is a folder or a pipe.
    """
    file = InputFile(resolve(name), name)
    if file.path.is_dir():
        raise DataError(
            f"{name} is a folder, a file is expected (data.kind parquet_stream reads folders of parquet files)",
            file=name,
        )
    if not file.path.is_file():  # opening a pipe would wait for ever
        raise DataError(f"{name} is no regular file", file=name)
    return file
