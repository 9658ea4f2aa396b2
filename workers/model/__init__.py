"""From a job spec to a flow, and its likelihood on the rows of a batch."""
