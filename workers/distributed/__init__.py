"""What the ranks of a run do together, and whose failure is reported when several fail."""
