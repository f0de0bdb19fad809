"""The model, one concept a file."""
