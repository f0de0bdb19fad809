"""The model that a run starts from, with random or given weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import ConvAPConfig, ModelConfig
from mixvpr_jax.models.vpr import VPRModel, create_model
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.storage import AnyPath, as_path, reaching
from mixvpr_jax.training.checkpoint import Checkpoints
from mixvpr_jax.training.config import StartConfig


def initial_model(config: StartConfig, *, seed: int) -> VPRModel:
    """The model before the first step.

    Args:
        config: The model and the source of its weights. Those of a bare backbone (torchvision's)
            fill the backbone, without the stages that the model crops; all others must fit the
            model name by name.
        seed: Seed of random weights.

    Raises:
        InputError: No such weights, or weights of another model.
    """
    architecture = config.architecture
    if config.init is None:
        return create_model(architecture, seed=seed)
    found, weights = _read(config.init, architecture)
    if found.arch != config.arch:
        raise InputError(f"{config.init}: expected a {config.arch}, found a {found.arch}")
    if found.aggregator is None:
        fresh = get_weights(create_model(architecture, seed=seed))
        cut = tuple(f"backbone.layer{stage}." for stage in architecture.layers_to_crop)
        kept = {name: array for name, array in weights.items() if not name.startswith(cut)}
        heads = {name: a for name, a in fresh.items() if not name.startswith("backbone.")}
        weights = {**kept, **heads}
    elif found.aggregator != config.aggregator:
        raise InputError(
            f"{config.init}: expected a model with {config.aggregator}, found {found.aggregator}"
        )
    return build_model(architecture, weights, source=config.init)


def _read(source: str, wanted: ModelConfig) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    path = as_path(source) if source.startswith("gs://") else Path(source)
    head = wanted.aggregator
    with reaching(path):
        is_file, is_run = path.is_file(), (path / "checkpoints").is_dir()
        has_model = (path / "model").is_dir()
    if is_file:
        size = wanted.image_size  # the shapes in a file leave this open
        pool_size = (head.s1, head.s2) if isinstance(head, ConvAPConfig) else None
        model = convert_checkpoint(path, image_size=size, pool_size=pool_size).model
    elif is_run:
        if not has_model:
            return _read_run(path)
        model, _ = from_pretrained(path / "model")
    else:
        model, _ = from_pretrained(source)
    return model.config, get_weights(model)


def _read_run(workdir: AnyPath) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """The last checkpoint of an unfinished run."""
    try:
        values = json.loads((workdir / "config.json").read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{workdir}: expected a run's config.json, found {error!r}") from None
    values.pop("init", None)
    checkpoints = Checkpoints(workdir / "checkpoints", only_read=True)
    if checkpoints.last_step is None:
        raise InputError(f"{workdir}: expected a run with a checkpoint, found none")
    weights = checkpoints.weights(checkpoints.last_step)
    checkpoints.close()
    return ModelConfig.from_dict(values), weights
