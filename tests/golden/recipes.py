"""Writes the golden listing of each recipe: `python tests/golden/recipes.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax import nnx

from mixvpr_jax.models.vpr import create_model
from mixvpr_jax.training.config import TrainConfig
from mixvpr_jax.training.recipes import list_recipes, load_recipe

LISTINGS = Path(__file__).parent / "recipes"


def settings(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """A line `name.of.setting = value` for each value of nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


def listing(config: TrainConfig) -> str:
    """A recipe's settings, and the name, shape and dtype of each array of its model."""
    model = nnx.eval_shape(lambda: create_model(config.model))
    lines = [*settings(config.to_dict()), ""]
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        shape = "x".join(map(str, leaf.shape))
        lines.append(f"{'.'.join(map(str, path))} {shape} {leaf.dtype}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes them all."""
    LISTINGS.mkdir(exist_ok=True)
    for name in list_recipes():
        (LISTINGS / f"{name}.txt").write_text(listing(load_recipe(name)[0]))


if __name__ == "__main__":
    sys.exit(main())
