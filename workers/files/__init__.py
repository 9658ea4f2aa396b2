"""The files of a run: artifacts, checkpoints, and a storage that is full or away for a while."""
