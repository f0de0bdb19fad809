"""Evaluation: descriptors, search, recall and the results on disk."""
