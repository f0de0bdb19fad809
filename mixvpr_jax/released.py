"""Weights that their authors publish: what they are, where they lie, and how they are fetched.

CosPlace's and EigenPlaces' names are those of hubconf.py in gmberton/CosPlace and
gmberton/EigenPlaces (MIT), whose VGG-16 is not among our backbones; BoQ's, MegaLoc's and SALAD's
files are those of amaralibey/Bag-of-Queries (MIT), gmberton/MegaLoc (MIT) and serizba/salad (GPL).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from shlex import quote
from urllib.error import HTTPError
from urllib.request import urlopen

from mixvpr_jax.errors import HTML, InputError, text_of, what_else
from mixvpr_jax.models.config import (
    BoQConfig,
    CosPlaceConfig,
    MixVPRConfig,
    ModelConfig,
    SALADConfig,
)
from mixvpr_jax.storage import as_path, atomic_write, is_local

DRIVE = "https://drive.google.com/uc?id="
TIMEOUT_SECONDS = 60  # without a byte


@dataclass(frozen=True)
class Released:
    """A published checkpoint, at an address that is plain or of Google Drive."""

    config: ModelConfig
    file_name: str
    url: str

    @property
    def drive_id(self) -> str | None:
        """What Google Drive calls the file; None elsewhere."""
        return self.url.removeprefix(DRIVE) if self.url.startswith(DRIVE) else None


def _mixvpr(channels: int, rows: int, drive_id: str) -> Released:
    file = f"resnet50_MixVPR_{channels * rows}_channels({channels})_rows({rows}).ckpt"
    aggregator = MixVPRConfig(out_channels=channels, out_rows=rows)
    return Released(ModelConfig(aggregator=aggregator), file, DRIVE + drive_id)


def _boq(arch: str, stages: tuple[int, ...], channels: int, side: int, file: str) -> Released:
    config = ModelConfig(
        arch,
        stages,
        BoQConfig(channels),
        (side, side),
        interpolation="bicubic",
        final_norm=arch.startswith("resnet"),
    )
    return Released(config, f"boq_{file}", f"{_BOQ}/{file}")


def _salad(repository: str, file: str, cluster_dim: int, projection: int | None = None) -> Released:
    salad = SALADConfig(cluster_dim=cluster_dim)
    config = ModelConfig("dinov2_vitb14", (), salad, (322, 322), projection=projection)
    return Released(config, Path(file).name, f"https://github.com/{repository}/releases/{file}")


def _of_github(repository: str, **dims: tuple[int, ...]) -> dict[str, Released]:
    method, found = repository.lower(), {}
    for backbone, dim in ((name, dim) for name in dims for dim in dims[name]):
        arch, file = backbone.lower(), f"{backbone}_{dim}_{method}.pth"
        # Both were trained on 512x512; the authors evaluate each benchmark at its own size.
        config = ModelConfig(arch, (), CosPlaceConfig(dim), image_size=(512, 512))
        url = f"https://github.com/gmberton/{repository}/releases/download/v1.0/{file}"
        found[f"{method}_{arch}_{dim}"] = Released(config, file, url)
    return found


_BOQ = "https://github.com/amaralibey/Bag-of-Queries/releases/download/v1.0"
_TO_2048 = (128, 256, 512, 1024, 2048)
RELEASED = {
    "resnet50_4096": _mixvpr(1024, 4, "1vuz3PvnR7vxnDDLQrdHJaOA04SQrtk5L"),
    "resnet50_512": _mixvpr(256, 2, "1khiTUNzZhfV2UUupZoIsPIbsMRBYVDqj"),
    "resnet50_128": _mixvpr(64, 2, "1DQnefjk1hVICOEYPwE4-CZAZOvi1NSJz"),
    **_of_github(
        "CosPlace",
        ResNet18=(32, 64, 128, 256, 512),
        ResNet50=(32, 64, *_TO_2048),
        ResNet101=(32, 64, *_TO_2048),
        ResNet152=(32, 64, *_TO_2048),
    ),
    **_of_github("EigenPlaces", ResNet18=(256, 512), ResNet50=_TO_2048, ResNet101=_TO_2048),
    "boq_resnet50_16384": _boq("resnet50", (4,), 512, 384, "resnet50_16384.pth"),
    "boq_dinov2_12288": _boq("dinov2_vitb14", (), 384, 322, "dinov2_12288.pth"),
    "dinov2_salad": _salad("serizba/salad", "download/v1.0.0/dino_salad.ckpt", 128),
    "megaloc": _salad("gmberton/MegaLoc", "download/v1.0/megaloc.torch", 256, 8448),
}


def cache_folder() -> Path:
    """The folder of cached files: $MIXVPR_HOME, else mixvpr_jax in the user's cache directory."""
    if home := os.environ.get("MIXVPR_HOME"):
        if not is_local(home):
            raise InputError(f"MIXVPR_HOME: expected a folder of this machine, found {home}")
        return Path(as_path(home))
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home directory, as in some containers
        raise InputError(
            "expected a home directory for released weights and descriptors, found none; set "
            "MIXVPR_HOME to a folder that can be written to"
        ) from None
    return Path(as_path(caches)) / "mixvpr_jax"


def fetch_checkpoint(name: str) -> Path:
    """The PyTorch checkpoint of a released name, downloaded on first use.

    Where that fails, the error's line holds the commands that do it by hand.
    """
    released = RELEASED[name]
    path = cache_folder() / released.file_name
    file, folder = quote(str(path)), quote(str(path.parent / name))
    by_hand = f"curl -fL --create-dirs {released.url} -o {file}"
    if released.drive_id:
        by_hand = f"mkdir -p {quote(str(path.parent))} && gdown {released.drive_id} -O {file}"
    commands = f"{by_hand} && mixvpr convert to-flax {file} {folder}"
    if path.exists():
        return path
    if released.drive_id:
        try:
            import gdown  # noqa: F401  # pyright: ignore[reportMissingImports] (optional)
        except ImportError:
            raise InputError(
                f"{name}: not in {path.parent}; run: pip install gdown && {commands}"
            ) from None
    with atomic_write(path) as partial:
        try:
            if released.drive_id:
                _from_drive(released.drive_id, partial)
            else:
                _from_web(released.url, partial)
        except Exception as error:  # from gdown, requests, urllib or the file system
            raise InputError(
                f"{name}: expected to download {released.url}, found: {text_of(error)}; "
                f"run: {commands}"
            ) from error
        with partial.open("rb") as downloaded:
            if what_else(downloaded.read(512)) == HTML:
                raise InputError(
                    f"{path}: expected a checkpoint, found an HTML page, now removed: the download "
                    f"was refused; try again later, or {commands}"
                )
    return path


def _from_drive(drive_id: str, partial: Path) -> None:
    import gdown  # pyright: ignore[reportMissingImports] (optional)

    gdown.download(id=drive_id, output=str(partial), quiet=True)
    if not partial.exists():  # gdown does not always raise
        raise OSError("nothing came")


def _from_web(url: str, partial: Path) -> None:
    from tqdm import tqdm

    try:
        response = urlopen(url, timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        raise
    with response, partial.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=total, unit="B", unit_scale=True, desc=partial.name, disable=None) as bar:
            while piece := response.read(2**20):
                file.write(piece)
                bar.update(len(piece))
    if total and (found := partial.stat().st_size) != total:
        raise HTTPException(f"{found:,} of {total:,} bytes")
