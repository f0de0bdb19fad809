"""Recipes, one per file: `mixvpr train NAME` trains its `config`."""
