"""Training: the optimizer and the step, so far."""
