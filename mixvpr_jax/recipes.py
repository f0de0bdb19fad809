"""Recipes: files that each hold one training configuration, `config`, and tell of it on top."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mixvpr_jax.checks import closest
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.config import TrainConfig


def list_recipes(folder: Path) -> list[str]:
    """The names of a folder's recipes."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def load_recipe(folder: Path, name: str) -> tuple[TrainConfig, str]:
    """A recipe and its description.

    Raises:
        InputError: No such recipe; the line gives the closest ones.
    """
    path = folder / f"{name}.py"
    known = list_recipes(folder)
    if name not in known:
        raise InputError(f"{name}: no such recipe in {folder.name}/{closest(name, known)}")
    spec = importlib.util.spec_from_file_location(f"{folder.name}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.config, module.__doc__ or ""
