"""Warm starts: a run's processes are copies of one that has imported their libraries (`template`, `interpreter`)."""
