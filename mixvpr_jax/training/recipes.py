"""Recipes: files that hold a `config`, those of the package by name and a user's own by path."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from mixvpr_jax.checks import closest
from mixvpr_jax.errors import InputError
from mixvpr_jax.training.config import TrainConfig

_INSTALLED, _CHECKOUT = (Path(__file__).parents[i] / "configs" for i in (1, 2))
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def list_recipes() -> list[str]:
    """The names of the package's recipes."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


def load_recipe(name: str) -> tuple[TrainConfig, str]:
    """The `config` of a recipe and its docstring.

    A recipe is one of the package's, or the path of a file, which may import its neighbours as a
    script does.

    Raises:
        InputError: No such recipe, or a file without one.

    Examples:
        >>> config, _ = load_recipe("resnet50_mixvpr_4096")
        >>> config.model.aggregator.out_channels
        1024
    """
    path, module_name = CONFIGS / f"{name}.py", f"configs.{name}"
    if name.endswith(".py"):
        path = Path(name)
        module_name = path.stem
        sys.path.insert(0, str(path.parent.absolute()))
    elif name not in (known := list_recipes()):
        first = ", whose name comes before all options" * name.startswith("-")
        raise InputError(f"{name}: no such recipe in configs/{first}{closest(name, known)}")
    if not path.is_file():
        raise InputError(f"{path}: expected a recipe, found no such file")
    spec = spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules.setdefault(module_name, module)
    spec.loader.exec_module(module)
    config = getattr(module, "config", None)
    if not isinstance(config, TrainConfig):
        raise InputError(f"{path}: expected config = TrainConfig(…), found {config!r:.80}")
    return config, module.__doc__ or path.stem
