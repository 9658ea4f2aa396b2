"""The HTTP front end, its client and the ``symadj`` command line."""

from importlib.metadata import version

__version__ = version("symadj")
