"""Evaluates a model, as `mixvpr eval` does: python eval.py --help."""

from mixvpr_jax.cli import main

if __name__ == "__main__":
    main("eval")
