"""The service around ``symadj_core``: ``symadj.api``, ``symadj.service`` and ``symadj.workers``.

In the repository these are links to the folders of the same name at the top, so that the folders stay where a newcomer
looks for them, and an installed symadj takes no name (``api``, ``service``) that a user's own project may have.
"""

from importlib.metadata import version

__version__ = version("symadj")
