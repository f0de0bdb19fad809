"""Trains a model, as `mixvpr train` does: python train.py NAME --workdir DIR."""

from mixvpr_jax.cli import main

if __name__ == "__main__":
    main("train")
