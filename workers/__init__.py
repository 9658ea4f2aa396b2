"""One training run on Ray Train: data, loop, evaluation, telemetry.

Started by name (``python -m symadj.workers.run``) by the dispatcher; imported by no other room.
"""
