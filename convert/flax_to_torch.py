"""Flax folder → PyTorch checkpoint: python -m convert.flax_to_torch DIR CKPT."""

from mixvpr_jax.cli import main

if __name__ == "__main__":
    main("convert", "to-torch")
