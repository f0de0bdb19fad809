"""Models as folders of model.safetensors, config.json and README.md, and the released weights."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import overload

import safetensors.numpy

from mixvpr_jax.checks import closest
from mixvpr_jax.conversion import build_model, convert_checkpoint, get_weights
from mixvpr_jax.conversion.formats import is_html, read_safetensors, what_else
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.models.config import Dtype, Engine, MixVPRConfig, ModelConfig
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.preprocess import Preprocess
from mixvpr_jax.storage import (
    AnyPath,
    AppearedMeanwhile,
    as_path,
    atomic_folder,
    atomic_write,
    reaching,
)

HUB = "hf://"
FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Released:
    """A checkpoint of amaralibey/MixVPR on Google Drive."""

    config: ModelConfig
    file_name: str
    drive_id: str


def _mixvpr(channels: int, rows: int, drive_id: str) -> Released:
    file = f"resnet50_MixVPR_{channels * rows}_channels({channels})_rows({rows}).ckpt"
    aggregator = MixVPRConfig(out_channels=channels, out_rows=rows)
    return Released(ModelConfig(aggregator=aggregator), file, drive_id)


RELEASED = {
    "resnet50_4096": _mixvpr(1024, 4, "1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L"),
    "resnet50_512": _mixvpr(256, 2, "1khiTUNzZhfV2UUupZoIsPIbsMRBYVDqj"),
    "resnet50_128": _mixvpr(64, 2, "1DQnefjk1hVICOEYPwE4-CZAZOvi1NSJz"),
}


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
            wrote, a released name ("resnet50_4096", "resnet50_512", "resnet50_128") or
            "hf://organisation/repository".
        dtype: Overrides the configuration's dtype of computation.
        engine: "onnxruntime" or "openvino": on a CPU, twice as fast as JAX. The model then is a
            function of images with a `config`, which computes in float32 within 1e-6 of JAX;
            "openvino-bfloat16" computes in bfloat16.

    Raises:
        InputError: There is no such model, or its files do not match.

    Examples:
        >>> model, preprocess = from_pretrained("resnet50_4096")
        >>> descriptors = model(preprocess(["street.jpg"]))  # [1, 4096] float32, unit norm
    """
    if engine != "jax":
        model, preprocess = from_pretrained(name, dtype=dtype or "float32")
        return EngineModel(model, engine), preprocess
    with _folder(os.fspath(name)) as folder:
        config = _read_config(folder / "config.json")
        if dtype is not None:
            config = replace(config, dtype=dtype)
        file = folder / "model.safetensors"
        if not file.is_file():
            raise InputError(f"{file}: expected the model's weights, found no such file")
        model = build_model(config, read_safetensors(file), source=str(file))
    return model, Preprocess(config.image_size, config.interpolation)


def save_pretrained(model: VPRModel, folder: str | os.PathLike[str]) -> None:
    """Writes model.safetensors, config.json and README.md into a folder, see `atomic_folder`."""
    with atomic_folder(as_path(folder)) as temporary:
        weights = safetensors.numpy.save(get_weights(model), metadata={"format": "mixvpr_jax"})
        (temporary / "model.safetensors").write_bytes(weights)
        config = json.dumps(model.config.to_dict(), indent=2)
        (temporary / "config.json").write_text(config + "\n")
        (temporary / "README.md").write_text(_model_card(model.config))


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """Yields the model's folder on a disk; objects of a store are downloaded temporarily."""
    if not name.startswith("gs://"):
        yield _find(name)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for file in (_model_in(as_path(name)) / part for part in FILES):
            with reaching(file):
                if not file.exists():
                    raise InputError(f"{file}: expected a model's file, found no such object")
                Path(temporary, file.name).write_bytes(file.read_bytes())
        yield Path(temporary)


def _find(name: str) -> Path:
    if name.startswith(HUB):
        return _hub_folder(name)
    if Path(name).is_dir():
        return Path(_model_in(Path(name)))
    if Path(name).is_file():
        raise InputError(
            f"{name}: expected a model's folder, found a file; convert a PyTorch checkpoint with "
            f"mixvpr convert to-flax {quote(name)} FOLDER"
        )
    if name in RELEASED:
        return _released_folder(name)
    raise InputError(
        f"{name}: expected a released name, a model's folder or {HUB}organisation/repository, "
        f"found none of them{closest(name, RELEASED)}"
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
        checkpoint = _released_checkpoint(name)
        model = convert_checkpoint(checkpoint).model
        if model.config != RELEASED[name].config:
            raise InputError(f"{checkpoint}: expected the weights of {name}, found {model.config}")
        try:
            save_pretrained(model, folder)
        except AppearedMeanwhile:  # another process converted the same weights
            if not (folder / "config.json").is_file():
                raise
    return folder


def cache_folder() -> Path:
    """The folder of cached files: $MIXVPR_HOME, else mixvpr_jax in the user's cache directory."""
    if home := os.environ.get("MIXVPR_HOME"):
        return Path(home)
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home directory, as in some containers
        raise InputError(
            "expected a home directory for released weights and descriptors, found none; set "
            "MIXVPR_HOME to a folder that can be written to"
        ) from None
    return Path(caches) / "mixvpr_jax"


def _released_checkpoint(name: str) -> Path:
    """The PyTorch checkpoint of a released name, downloaded on first use."""
    path = cache_folder() / RELEASED[name].file_name
    file, folder = quote(str(path)), quote(str(path.parent / name))
    commands = (
        f"gdown {RELEASED[name].drive_id} -O {file} && mixvpr convert to-flax {file} {folder}"
    )
    refused = (
        f"{path}: expected a checkpoint, found an HTML page, now removed: Google Drive refused the "
        f"download; try again later, or {commands}"
    )
    if path.exists():
        if _is_html_file(path):
            path.unlink(missing_ok=True)
            raise InputError(refused)
        return path
    try:
        import gdown  # pyright: ignore[reportMissingImports] (optional)
    except ImportError:
        raise InputError(f"{name}: not in {path.parent}; run: {commands}") from None
    with atomic_write(path) as partial:
        problem = None
        try:
            gdown.download(id=RELEASED[name].drive_id, output=str(partial), quiet=True)
        except Exception as error:  # from gdown, requests or the file system
            problem = error
        if problem or not partial.exists():  # gdown does not always raise
            reason = f" ({problem})" if problem else ""
            raise InputError(
                f"{name}: the Google Drive download failed{reason}; run: {commands}"
            ) from problem
        if _is_html_file(partial):
            raise InputError(refused)
    return path


def _is_html_file(path: Path) -> bool:
    with path.open("rb") as file:
        return is_html(file.read(512))


def _hub_folder(name: str) -> Path:
    repository = name.removeprefix(HUB)
    if repository.count("/") != 1:
        raise InputError(f"{name}: expected {HUB}organisation/repository")
    with extra("hub", f"{name}: expected huggingface_hub to fetch it"):
        import huggingface_hub
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(FILES)))
    except Exception as error:  # from the hub, requests or the file system
        raise InputError(
            f"{name}: the download from the hub failed ({error})".replace("\n", " ")
        ) from error


def _read_config(path: Path) -> ModelConfig:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the model's configuration, found no such file"
        ) from None
    if foreign := what_else(content[:512]):
        raise InputError(f"{path}: expected the model's configuration, found {foreign}")
    try:
        return ModelConfig.from_dict(json.loads(content))
    except (InputError, ValueError, RecursionError) as error:  # from the configuration or JSON
        raise InputError(f"{path}: {error}") from error


def _model_card(config: ModelConfig) -> str:
    height, width = config.image_size
    resized = f"resized to {height}x{width} pixels (Pillow's {config.interpolation} filter)"
    return f"""---
library_name: mixvpr-jax
tags: [visual-place-recognition, image-retrieval, jax, flax]
---
# {config.arch}, {config.aggregator.name if config.aggregator else "bare backbone"}

Made with mixvpr-jax. An image, {resized},
gives a descriptor of {config.descriptor_dim or "no"} values; nearest neighbours show the same
place.

```python
import mixvpr_jax

model, preprocess = mixvpr_jax.from_pretrained("path/to/this/folder")
descriptors = model(preprocess(images))
```

`config.json` says what the model is, `model.safetensors` holds its weights.
"""
