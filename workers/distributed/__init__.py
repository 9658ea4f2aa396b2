"""What the ranks of a run do together, and whose failure is told when several fail."""
