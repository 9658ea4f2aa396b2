"""What of a run is about Ray: the process group, the trainer, and what Ray's errors mean."""
