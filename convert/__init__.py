"""Conversion commands, in both directions."""
