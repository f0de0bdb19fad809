"""Training: the optimizer, so far."""
