"""Recipes: files that each hold a training configuration, `config`, described in the docstring."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mixvpr_jax.checks import closest
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def list_recipes(folder: Path) -> list[str]:
    """The names of a folder's recipes."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def load_recipe(name: str, folder: Path = CONFIGS) -> tuple[TrainConfig, str]:
    """A recipe and its description.

    Args:
        name: A file of the folder, without .py; or the path of a .py file.
        folder: The folder of recipes.

    Raises:
        InputError: No such recipe, or a file without one.
    """
    path = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    known = list_recipes(folder)
    if not name.endswith(".py") and name not in known:
        hint = closest(name, known) if known else "; give the path of a recipe, such as ./mine.py"
        raise InputError(f"{name}: no such recipe in {folder.name}/{hint}")
    if not path.is_file():
        raise InputError(f"{path}: expected a recipe, found no such file")
    spec = importlib.util.spec_from_file_location(f"{folder.name}.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = getattr(module, "config", None)
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: expected config = TrainConfig(…), found {config!r:.80}")
    return config, module.__doc__ or path.stem
