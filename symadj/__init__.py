"""The service around ``symadj_core``: ``symadj.api``, ``symadj.service`` and ``symadj.workers``.

In the repository these are links to the folders of the same name at the top, so that the folders stay where a newcomer
looks for them, and an installed symadj takes no name (``api``, ``service``) that a user's own project may have.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("symadj")
except PackageNotFoundError:
    # The repository itself is on Python's path, as on a machine that reaches no package index.
    __version__ = "not installed"
