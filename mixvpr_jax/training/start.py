"""What a run starts from: a workdir that it alone writes to, and initial weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights
from mixvpr_jax.distributed import is_main_process
from mixvpr_jax.errors import InputError
from mixvpr_jax.locks import locked
from mixvpr_jax.models.backbones import BACKBONES
from mixvpr_jax.models.config import ConvAPConfig, ModelConfig
from mixvpr_jax.models.vpr import VPRModel, create_model
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.storage import (
    AnyPath,
    as_path,
    atomic_write,
    is_local,
    named_when_full,
    reaching,
)
from mixvpr_jax.training.checkpoint import Checkpoints
from mixvpr_jax.training.config import StartConfig, TrainConfig, require_same_run
from mixvpr_jax.writable import require_writable


@contextmanager
def locked_workdir(workdir: AnyPath) -> Iterator[Callable[[], None]]:
    """Locks a workdir in process 0; yields `FolderLock.require`, to call before each save."""
    if not is_main_process():
        yield lambda: None
        return
    require_writable(workdir, "the run")
    with named_when_full(workdir), locked(workdir, "run") as lock:
        yield lock.require


def check_workdir(config: TrainConfig, workdir: AnyPath) -> None:
    """Raises InputError if a workdir cannot be that of this run."""
    path, checkpoints = workdir / "config.json", workdir / "checkpoints"
    with reaching(workdir):
        has_config, has_checkpoints = path.exists(), checkpoints.exists()
    if has_config:
        require_same_run(config, path)
    elif has_checkpoints:
        raise InputError(f"{workdir}: expected config.json next to checkpoints, found none")
    require_writable(workdir, "the run")
    if is_local(workdir):
        require_writable(checkpoints, "checkpoints")


def write_config(config: TrainConfig, path: AnyPath) -> None:
    """Writes config.json unless it holds the same already."""
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    with reaching(path):
        there = path.read_text(encoding="utf-8") if path.exists() else None
    if there != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def initial_model(config: StartConfig, *, seed: int) -> VPRModel:
    """The model before the first step, with random weights or those of `config.init`.

    Weights of a bare backbone (torchvision's) fill the backbone, without the stages that the model
    crops; all others must fit the model name by name.

    Raises:
        InputError: No such weights, or weights of another model.
    """
    architecture, source = config.architecture, config.init
    if source is None:
        return create_model(architecture, seed=seed)
    found, weights = _read_weights(source, architecture)
    there = BACKBONES.get(found.arch, found.arch)  # some have two names
    if there != BACKBONES.get(config.arch, config.arch):
        raise InputError(f"{source}: expected a {config.arch}, found a {found.arch}")
    if found.aggregator is None:
        cut = tuple(f"backbone.layer{stage}." for stage in architecture.layers_to_crop)
        weights = {name: array for name, array in weights.items() if not name.startswith(cut)}
        fresh = get_weights(create_model(architecture, seed=seed))
        weights |= {name: a for name, a in fresh.items() if not name.startswith("backbone.")}
    elif found.aggregator != config.aggregator:
        raise InputError(
            f"{source}: expected a model with {config.aggregator}, found {found.aggregator}"
        )
    elif found.projection is not None:
        raise InputError(
            f"{source}: expected a model without a projection, found one to {found.projection} "
            "values; start from the model that it was learned from"
        )
    elif found.final_norm != config.final_norm:
        raise InputError(
            f"{source}: expected a model with final_norm {config.final_norm}, found one with "
            f"{found.final_norm}; give --model.{'' if found.final_norm else 'no-'}final-norm"
        )
    elif found.interpolation != config.interpolation:
        raise InputError(
            f"{source}: expected a model with interpolation {config.interpolation}, found "
            f"{found.interpolation}; give --model.interpolation {found.interpolation}"
        )
    return build_model(architecture, weights, source=source)


def _read_weights(source: str, wanted: ModelConfig) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    path = as_path(source) if source.startswith(("gs://", "~/")) else Path(source)
    head = wanted.aggregator
    with reaching(path):
        is_file, is_run = path.is_file(), (path / "checkpoints").is_dir()
        has_model = (path / "model").is_dir()
    if is_run and not has_model:
        return _read_run(path)
    if is_file:
        size = wanted.image_size  # the shapes in a file leave this open
        pool_size = (head.s1, head.s2) if isinstance(head, ConvAPConfig) else None
        model = convert_checkpoint(path, image_size=size, pool_size=pool_size).model
        if model.config.interpolation == "bilinear":  # or a file that does not tell
            found = replace(model.config, interpolation=wanted.interpolation)
            return found, get_weights(model)
    else:
        model, _ = from_pretrained(path / "model" if is_run else source)
    return model.config, get_weights(model)


def _read_run(workdir: AnyPath) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """The last checkpoint of an unfinished run."""
    try:
        text = (workdir / "config.json").read_text(encoding="utf-8")
        values = dict(json.loads(text)["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{workdir}: expected a run's config.json, found {error!r}") from None
    values.pop("init", None)
    with closing(Checkpoints(workdir / "checkpoints", only_read=True)) as checkpoints:
        if not checkpoints.steps:
            raise InputError(f"{workdir}: expected a run with a checkpoint, found none")
        return ModelConfig.from_dict(values), checkpoints.weights(max(checkpoints.steps))
