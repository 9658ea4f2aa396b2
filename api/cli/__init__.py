"""The ``symadj`` command line: a thin layer over the HTTP API."""
