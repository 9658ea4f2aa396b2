"""The training loop, the step, and all that a step is made of."""
