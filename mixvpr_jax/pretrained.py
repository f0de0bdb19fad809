"""Models as folders of model.safetensors, config.json and README.md, opened by path or name."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, get_args, overload

import safetensors.numpy

from mixvpr_jax.checks import closest, require_known
from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights
from mixvpr_jax.conversion.formats import is_own, read_safetensors
from mixvpr_jax.conversion.layouts import few
from mixvpr_jax.errors import InputError, what_else
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.hub import FILES, HUB, fetch, meant
from mixvpr_jax.model_card import converted_from, model_card
from mixvpr_jax.models.config import Dtype, Engine, ModelConfig
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.released import RELEASED, cache_folder, fetch_checkpoint
from mixvpr_jax.storage import (
    AnyPath,
    AppearedMeanwhile,
    as_path,
    atomic_folder,
    reaching,
    write_json,
)
from mixvpr_jax.writable import require_writable

CHECKPOINTS = (".safetensors", ".bin", ".ckpt", ".pth", ".pt", ".tar")  # as PyTorch's are called


@overload
def from_pretrained(
    name: str | os.PathLike[str], *, dtype: Dtype | None = None
) -> tuple[VPRModel, Preprocess]: ...


@overload
def from_pretrained(
    name: str | os.PathLike[str], *, engine: Engine
) -> tuple[VPRModel | EngineModel, Preprocess]: ...


def from_pretrained(
    name: str | os.PathLike[str], *, dtype: Dtype | None = None, engine: Engine = "jax"
) -> tuple[VPRModel | EngineModel, Preprocess]:
    """Loads a model in evaluation mode, and the preprocessing of its images.

    Args:
        name: A folder on a disk or gs://bucket/folder that `save_pretrained` or a finished run
            wrote, a released name ("resnet50_4096", "eigenplaces_resnet50_2048", …: docs/models.md)
            or "hf://organisation/repository@revision" (docs/hub.md).
        dtype: Overrides the configuration's dtype of computation.
        engine: "onnxruntime" or "openvino": on a CPU, faster than JAX. The model then is a
            function of images with a `config`, which computes in float32 within 1e-6 of JAX;
            "openvino-bfloat16" computes in bfloat16.

    Raises:
        InputError: There is no such model, or its files do not match.

    Examples:
        >>> model, preprocess = from_pretrained("resnet50_4096")
        >>> descriptors = model(preprocess(["street.jpg"]))  # [1, 4096] float32, unit norm
    """
    require_known("engine", engine, get_args(Engine))
    if engine != "jax":
        model, preprocess = from_pretrained(name, dtype=dtype or "float32")
        return EngineModel(model, engine), preprocess
    with model_folder(os.fspath(name)) as folder:
        config = _read_config(folder / "config.json")
        if dtype is not None:
            config = replace(config, dtype=dtype)
        file = folder / "model.safetensors"
        if not file.is_file():
            raise InputError(f"{file}: expected the model's weights, found {_instead(file)}")
        model = build_model(config, read_safetensors(file), source=str(file))
    return model, Preprocess(config.image_size, config.interpolation)


def save_pretrained(
    model: VPRModel,
    folder: str | os.PathLike[str],
    *,
    origin: str = "",
    training: Mapping[str, Any] | None = None,
) -> None:
    """Writes model.safetensors, config.json and README.md into a folder, see `atomic_folder`.

    Args:
        model: The model, in training or evaluation mode.
        folder: A path or gs:// address.
        origin: A sentence for README.md on where the weights come from.
        training: Settings for README.md of the run that trained them.
    """
    arrays = get_weights(model)
    card, target = model_card(model.config, origin=origin, training=training), as_path(folder)
    require_writable(target, "the model")
    with atomic_folder(target) as temporary:
        weights = safetensors.numpy.save(arrays, metadata={"format": "mixvpr_jax"})
        (temporary / "model.safetensors").write_bytes(weights)
        write_json(temporary / "config.json", model.config.to_dict())
        (temporary / "README.md").write_text(card, encoding="utf-8")


def require_own_folder(folder: AnyPath) -> None:
    """Holds a folder to be one into which a model may go: `save_pretrained` replaces what is there.

    Raises:
        InputError: A file, or files of a model's names that are not all a model of this package.
    """
    require_writable(folder, "the model")
    with reaching(folder):
        there = [name for name in (*FILES, "README.md") if (folder / name).exists()]
        with suppress(InputError, FileNotFoundError):
            _read_config(folder / "config.json")
            if is_own(folder / "model.safetensors"):
                return
    if there:
        raise InputError(
            f"{folder}: expected a new folder or a model of mixvpr-jax to replace, found "
            f"others' files ({', '.join(there)}); choose another folder"
        )


@contextmanager
def model_folder(name: str, parts: Sequence[str] = FILES) -> Iterator[Path]:
    """Yields a model's folder on a disk; parts of it in a store are downloaded temporarily."""
    if not name.startswith("gs://"):
        yield _find(str(as_path(name)) if name.startswith("~/") else name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for file in (_model_in(as_path(name)) / part for part in parts):
            with reaching(file):
                if not file.exists():
                    if file.name not in FILES:
                        continue
                    raise InputError(f"{file}: expected a model's file, found no such object")
                Path(temporary, file.name).write_bytes(file.read_bytes())
        yield Path(temporary)


def _find(name: str) -> Path:
    if name.startswith(HUB):
        return fetch(name)
    # Before a folder of that name which holds no model, such as the output of an evaluation.
    if name in RELEASED and not any(Path(name, part).exists() for part in (*FILES, "checkpoints")):
        return _released_folder(name)
    if name and Path(name).is_dir():
        return Path(_model_in(Path(name)))
    if Path(name).is_file():
        if is_own(Path(name)):
            raise InputError(
                f"{name}: expected a model's folder, found the weights in one; give the folder: "
                f"{quote(str(Path(name).parent))}"
            )
        raise InputError(
            f"{name}: expected a model's folder, found a file; convert a PyTorch checkpoint with "
            f"mixvpr convert to-flax {quote(name)} FOLDER"
        )
    raise InputError(
        f"{name}: expected a released name, a model's folder or {HUB}organisation/repository, "
        f"found none of them{meant(name) or closest(name, RELEASED)}"
    )


def _model_in(folder: AnyPath) -> AnyPath:
    """The model's folder: `folder` itself, or that of the finished run in it."""
    with reaching(folder):
        if (folder / "model.safetensors").exists() or not (folder / "checkpoints").is_dir():
            return folder
        if not (folder / "model" / "config.json").exists():
            raise InputError(
                f"{folder}: expected a model's folder, found an unfinished run; repeat the "
                "training command to finish it and write its model"
            )
    return folder / "model"


def _released_folder(name: str) -> Path:
    """The folder of a released model, converted on first use."""
    folder = cache_folder() / name
    if not (folder / "config.json").is_file():
        checkpoint = fetch_checkpoint(name)
        model = convert_checkpoint(checkpoint).model
        if model.config != RELEASED[name].config:
            raise InputError(
                f"{checkpoint}: expected the weights of {name}, found {model.config}; delete the "
                "file to download it again"
            )
        try:
            save_pretrained(model, folder, origin=converted_from(checkpoint, RELEASED[name].url))
        except AppearedMeanwhile:  # another process converted the same weights
            if not (folder / "config.json").is_file():
                raise
    return folder


def _instead(file: AnyPath) -> str:
    """What lies in the place of a model's file: perhaps a checkpoint, shards, or a folder of it."""
    folder = file.parent
    if not isinstance(file, Path):
        return "no such file"
    if file.is_symlink():  # out of a snapshot in the hub's cache that was copied as it is
        return f"a link to {file.readlink()}, which is not there; copy folders by cp -rL"
    files = sorted(folder.glob("*.*"))
    others = [each.name for each in files if each.suffix in CHECKPOINTS and each.name not in FILES]
    if others:
        return (
            f"no such file, but {few(others)}; save shards as one file, and convert a PyTorch "
            f"checkpoint with mixvpr convert to-flax {quote(str(folder / others[0]))} FOLDER"
        )
    patterns = f"snapshots/*/{file.name}", f"*/{file.name}"
    inner = [path.parent for each in patterns for path in sorted(folder.glob(each))]
    return "no such file" + f", but one in {few(inner)}; give that folder" * bool(inner)


def _read_config(path: AnyPath) -> ModelConfig:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the model's configuration, found {_instead(path)}"
        ) from None
    if foreign := what_else(content[:512]):
        raise InputError(f"{path}: expected the model's configuration, found {foreign}")
    try:
        return ModelConfig.from_dict(json.loads(content))
    except (InputError, ValueError, RecursionError) as error:  # from the configuration or JSON
        raise InputError(f"{path}: {error}") from error
