"""The authors' released checkpoints and their download."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mixvpr_jax.conversion.formats import is_html
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import MixVPRConfig, ModelConfig
from mixvpr_jax.storage import atomic_write


@dataclass(frozen=True)
class Released:
    """A checkpoint of amaralibey/MixVPR on Google Drive."""

    config: ModelConfig
    file_name: str
    drive_id: str


RELEASED = {
    "resnet50_4096": Released(
        ModelConfig(aggregator=MixVPRConfig(out_channels=1024, out_rows=4)),
        "resnet50_MixVPR_4096_channels(1024)_rows(4).ckpt",
        "1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L",
    ),
    "resnet50_512": Released(
        ModelConfig(aggregator=MixVPRConfig(out_channels=256, out_rows=2)),
        "resnet50_MixVPR_512_channels(256)_rows(2).ckpt",
        "1khiTUNzZhfV2UUupZoIsPIbsMRBYVDqj",
    ),
    "resnet50_128": Released(
        ModelConfig(aggregator=MixVPRConfig(out_channels=64, out_rows=2)),
        "resnet50_MixVPR_128_channels(64)_rows(2).ckpt",
        "1DQnefjk1hVICOEYPwE4-CZAZOvi1NSJz",
    ),
}


def cache_folder() -> Path:
    """The folder of cached files: $MIXVPR_HOME, else mixvpr_jax in the user's cache directory.

    Raises:
        InputError: Neither is known.
    """
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


def released_checkpoint(name: str) -> Path:
    """The PyTorch checkpoint of a released name, downloaded on first use.

    Raises:
        InputError: The download failed; the line gives the commands that replace it.
    """
    path = cache_folder() / RELEASED[name].file_name
    if not path.exists():
        _download(name, path)
    elif _is_html_file(path):
        path.unlink(missing_ok=True)
        raise InputError(f"{path}: {_refused(name, path)}")
    return path


def _download(name: str, path: Path) -> None:
    try:
        import gdown  # pyright: ignore[reportMissingImports] (optional)
    except ImportError:
        raise InputError(f"{name}: not in {path.parent}; run: {_commands(name, path)}") from None
    with atomic_write(path) as partial:
        try:
            gdown.download(id=RELEASED[name].drive_id, output=str(partial), quiet=True)
        except Exception as error:  # from gdown, requests or the file system
            raise InputError(
                f"{name}: the Google Drive download failed ({error}); run: {_commands(name, path)}"
            ) from error
        if not partial.exists():  # gdown does not always raise
            raise InputError(
                f"{name}: the Google Drive download failed; run: {_commands(name, path)}"
            )
        if _is_html_file(partial):
            raise InputError(f"{path}: {_refused(name, path)}")


def _is_html_file(path: Path) -> bool:
    with path.open("rb") as file:
        return is_html(file.read(512))


def _refused(name: str, path: Path) -> str:
    return (
        "expected a checkpoint, found an HTML page, now removed: Google Drive refused the "
        f"download; try again later, or {_commands(name, path)}"
    )


def _commands(name: str, path: Path) -> str:
    file, folder = quote(str(path)), quote(str(path.parent / name))
    fetch = f"gdown {RELEASED[name].drive_id} -O {file}"
    convert = f"python -m convert.torch_to_flax {file} {folder}"
    return f"{fetch} && {convert}"
