"""Recipes: a file each, whose `config` is what `python train.py NAME` trains."""
