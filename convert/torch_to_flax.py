"""PyTorch checkpoint → Flax folder: python -m convert.torch_to_flax CKPT DIR."""

from mixvpr_jax.cli import main

if __name__ == "__main__":
    main("convert", "to-flax")
