"""`mixvpr info`: versions, devices, engines and caches, which a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mixvpr_jax.errors import InputError, importing, platform_error, text_of
from mixvpr_jax.version import __version__

CORE = ("jax", "jaxlib", "flax", "numpy", "scipy", "pillow", "safetensors", "tyro")
OPTIONAL = {  # a package: the extra that brings it
    "grain": "train",
    "orbax-checkpoint": "train",
    "faiss-cpu": "faiss",
    "h5py": "hloc",
    "onnx": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "gcsfs": "gcs",
    "huggingface_hub": "hub",
    "tensorflow-datasets": "tfds",
    "torch": "convert",
}
ENGINES = ("jax", "onnxruntime", "openvino")


def info() -> None:
    """Prints versions, devices, engines and caches, for a bug report."""
    with importing():
        lines = list(facts())
    sys.stdout.writelines(f"{name + ':':24}{value}\n" for name, value in lines)


def facts() -> Iterator[tuple[str, str]]:
    """What there is: a name and its value."""
    yield "mixvpr-jax", __version__
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "platform", f"{platform.platform()}, {os.cpu_count()} processors"
    for name in CORE:
        yield name, installed(name) or "missing"
    for name, extra in OPTIONAL.items():
        yield name, installed(name) or f"missing; pip install 'mixvpr-jax[{extra}]'"
    yield "devices", _devices()
    yield "engines", ", ".join(name for name in ENGINES if installed(name)) or "none"
    yield from _caches()


def installed(package: str) -> str | None:
    """The version of an installed package."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _devices() -> str:
    try:
        import jax

        if (line := platform_error()) is not None:
            return f"none: {line}"
        kinds = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    except Exception as error:  # whatever a broken installation raises
        return f"none: {text_of(error)}"
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _caches() -> Iterator[tuple[str, str]]:
    try:
        from mixvpr_jax.released import cache_folder

        root = cache_folder()
    except InputError as error:  # there is no home
        yield "caches", str(error)
        return
    yield "caches", str(root)
    with suppress(OSError):
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            yield f"  {folder.name}", f"{_size(folder) / 1e6:,.1f} MB"


def _size(folder: Path) -> int:
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # removed meanwhile
                total += Path(where, name).lstat().st_size
    return total
