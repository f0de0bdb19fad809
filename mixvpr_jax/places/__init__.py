"""Training data of one's own photos."""
