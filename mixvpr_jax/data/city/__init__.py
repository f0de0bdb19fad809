"""The pieces that the generated town is drawn from."""
