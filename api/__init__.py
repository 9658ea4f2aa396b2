"""The HTTP front end, its client and the ``symadj`` command line."""
