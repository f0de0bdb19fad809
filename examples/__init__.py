"""Programs to begin from: python -m examples.NAME, from a checkout."""
