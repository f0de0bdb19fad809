"""What a run starts from: a workdir that it alone writes to, images and initial weights."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from mixvpr_jax.conversion import Conversion, build_model, convert_checkpoint, get_weights
from mixvpr_jax.conversion.convert import weights_hash
from mixvpr_jax.conversion.infer import read_hyper_parameters
from mixvpr_jax.data.device_augmentation import make_input, runs_on_host
from mixvpr_jax.data.gsv_cities import in_bytes
from mixvpr_jax.data.loader import Batches
from mixvpr_jax.data.sources import Sampler, open_source
from mixvpr_jax.distributed import data_mesh, is_main_process, require_same
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import composed
from mixvpr_jax.locks import locked
from mixvpr_jax.models.backbones import BACKBONES
from mixvpr_jax.models.config import ConvAPConfig, MixVPRConfig, ModelConfig
from mixvpr_jax.models.vpr import VPRModel, create_model
from mixvpr_jax.pretrained import from_pretrained
from mixvpr_jax.storage import AnyPath, as_path, is_local, named_when_full, reaching
from mixvpr_jax.training.checkpoint import Checkpoints, last_step
from mixvpr_jax.training.config import (
    MAY_CHANGE,
    StartConfig,
    TrainConfig,
    require_same_run,
)
from mixvpr_jax.writable import require_writable

# Fields that may differ between the processes of a run; what lies there may not.
OF_A_PROCESS = {
    *(name for name in MAY_CHANGE if name.startswith("data.")),
    *("model.init", "validation.sets", "validation.data_dir", "validation.ground_truth"),
}


@contextmanager
def locked_workdir(workdir: AnyPath) -> Iterator[Callable[[], None]]:
    """Locks a workdir in process 0; yields `FolderLock.require`, to call before each save."""
    path = workdir.absolute() if isinstance(workdir, Path) else workdir
    if found := re.search(r"\[.*\]|\\", path.as_posix()):
        raise InputError(
            f"{workdir}: expected a path without [, ] and backslashes, which Orbax takes for a "
            f"pattern so that no checkpoint could be restored, found {found[0]}; choose another "
            "--workdir"
        )
    require_writable(workdir, "the run")
    if not is_main_process():
        yield lambda: None
        return
    with named_when_full(workdir), locked(workdir, "run") as lock:
        yield lock.require


def check_workdir(config: TrainConfig, workdir: AnyPath) -> None:
    """Raises InputError if a workdir cannot be that of this run."""
    path, checkpoints = workdir / "config.json", workdir / "checkpoints"
    with reaching(workdir):
        has_config, has_checkpoints = path.exists(), checkpoints.exists()
        has_log, has_model = (workdir / "metrics.jsonl").exists(), (workdir / "model").is_dir()
        step = last_step(workdir)
    if has_model and not step:
        raise InputError(
            f"{workdir}: expected a new folder, or the checkpoints of a run, found a model alone, "
            "which training would replace; choose another --workdir, or move model away"
        )
    if step and not has_log:
        raise InputError(
            f"{workdir}: expected metrics.jsonl next to checkpoints, by which the best is found, "
            "found none; copy it, or make an empty one to go without earlier recalls"
        )
    if has_config:
        if is_main_process():  # whose options the others must have, but for `OF_A_PROCESS`
            require_same_run(config, path)
    elif has_checkpoints:
        raise InputError(f"{workdir}: expected config.json next to checkpoints, found none")
    if is_local(workdir):
        require_writable(checkpoints, "checkpoints")


def require_same_on_all_processes(
    config: TrainConfig, images: str, sets: Mapping[str, str], model: VPRModel
) -> None:
    """Raises InputError where process 0 has other options, images, validation sets or weights."""
    found = {"images": images, "sets": sets, "weights": weights_hash(get_weights(model))[:8]}
    require_same({**config.to_dict(), **found}, besides=OF_A_PROCESS)


class Images:
    """The images of a run: which a step takes, and how they reach the devices."""

    def __init__(self, config: TrainConfig) -> None:
        """Opens the data set; batches are padded to divide over devices and chunks."""
        data, interpolation = config.data, config.model.interpolation
        self.mesh = data_mesh()
        self.source = open_source(data)
        self.sampler = Sampler(self.source.places, data, config.seed)
        parts = self.mesh.size * config.grad_cache_chunks
        self.batches = Batches(
            self.source,
            self.sampler,
            config.image_size,
            -(-data.batch_size // parts) * parts,
            config.epochs * self.sampler.steps_per_epoch,
            on_host=runs_on_host(data.augmentation),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            interpolation=interpolation,
        )
        self.place = make_input(data.augmentation, config.image_size, self.mesh, interpolation)

    @cached_property
    def checksums(self) -> list[str]:
        """Checksums of the images' names: the present one, then those of earlier versions."""
        names = self.source.places.names
        joined = b"\n".join(names.tolist())
        same = in_bytes(composed(joined.decode(errors="surrogateescape")))
        return [f"{zlib.crc32(text):08x}" for text in (same, joined, names.tobytes())]


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
    else:
        _require_same_head(found, config, source)
    return build_model(architecture, weights, source=source)


def _require_same_head(found: ModelConfig, wanted: ModelConfig, source: str) -> None:
    remedies = {
        "layers_to_crop": " ".join(
            ["; give --model.layers-to-crop", *map(str, found.layers_to_crop)]
        ),
        "aggregator": "",
        "feature_size": "; give --model.image-size {} {}".format(*found.image_size),
        "projection": "; start from the model that it was learned from",
        "final_norm": f"; give --model.{'' if found.final_norm else 'no-'}final-norm",
        "interpolation": f"; give --model.interpolation {found.interpolation}",
    }
    if not isinstance(wanted.aggregator, MixVPRConfig):  # whose weights are for positions
        del remedies["feature_size"]
    for name, remedy in remedies.items():
        if (there := getattr(found, name)) != (here := getattr(wanted, name)):
            raise InputError(
                f"{source}: expected a model with {name} {here}, found {there}{remedy}"
            )


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
        conversion = convert_checkpoint(path, image_size=size, pool_size=pool_size)
        return _as_told(conversion, wanted), get_weights(conversion.model)
    model, _ = from_pretrained(path / "model" if is_run else source)
    return model.config, get_weights(model)


def _as_told(conversion: Conversion, wanted: ModelConfig) -> ModelConfig:
    """A file's configuration by its own hyper-parameters; conversion takes sizes as given."""
    config, told = conversion.model.config, read_hyper_parameters(conversion.checkpoint.settings)
    if config.interpolation == "bilinear" and not told.interpolation:  # a file that does not tell
        config = replace(config, interpolation=wanted.interpolation)
    if told.map_size and isinstance(config.aggregator, MixVPRConfig):
        height, width = told.map_size
        return replace(config, image_size=(height * config.stride, width * config.stride))
    if told.pool_size and isinstance(config.aggregator, ConvAPConfig):
        s1, s2 = told.pool_size
        return replace(config, aggregator=replace(config.aggregator, s1=s1, s2=s2))
    return config


def _read_run(workdir: AnyPath) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """The last checkpoint of an unfinished run."""
    try:
        values = dict(json.loads((workdir / "config.json").read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{workdir}: expected a run's config.json, found {error!r}") from None
    values.pop("init", None)
    with closing(Checkpoints(workdir / "checkpoints", only_read=True)) as checkpoints:
        if not checkpoints.steps:
            raise InputError(f"{workdir}: expected a run with a checkpoint, found none")
        return ModelConfig.from_dict(values), checkpoints.weights(max(checkpoints.steps))
