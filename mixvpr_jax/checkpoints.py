"""Reading a PyTorch checkpoint of any known kind: its weights under official names, its config.

A checkpoint is read without executing anything in it, told apart by its names, and described by
its shapes. What is left out on purpose is listed with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mixvpr_jax.errors import InputError
from mixvpr_jax.pickles import Code
from mixvpr_jax.torch_files import read_torch_file
from mixvpr_jax.torch_weights import Weights

# What a known kind of checkpoint calls the stem's convolution, most specific first.
LAYOUTS = {
    "official (MixVPR, gsv-cities)": "backbone.model.conv1.weight",
    "OpenVPRLab": "backbone.frozen_layers.0.0.weight",
    "OpenVPRLab, nothing frozen": "backbone.unfrozen_layers.0.0.weight",
    "torchvision trunk": "conv1.weight",
}
WRAPPERS = r"((module|model|_orig_mod)\.)*"
DROPPED = {
    "batch counters": r".*\.num_batches_tracked",
    "ImageNet classifier": r"backbone\.model\.fc\..*",
    "parameters of a loss or miner": r"(loss_fn|loss_function|loss|criterion|miner)\..*",
}


@dataclass
class Checkpoint:
    """A PyTorch checkpoint, understood.

    Attributes:
        kind: What it is, for people.
        state: Official names and arrays, float32, in PyTorch's layout; only what is used.
        dropped: What was left out on purpose: reason → names.
        notes: What was assumed or changed while reading.
        hyper_parameters: Those of a Lightning checkpoint.
    """

    kind: str
    state: Weights
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)

    def drop(self, reason: str, names: list[str]) -> None:
        """Moves entries that are known and not needed from `state` to `dropped`."""
        for name in names:
            del self.state[name]
        if names:
            self.dropped.setdefault(reason, []).extend(names)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads `.ckpt`, `.pth`, `.pt` (any pickle that holds data alone) or `.safetensors`.

    Raises:
        InputError: A file that is missing, cut short, HTML, not a checkpoint, or holds code.
    """
    raw = read_file(path)
    nested = raw.get("state_dict")
    lightning = isinstance(nested, Mapping)
    layout, state = official_names(path, _tensors(path, nested if lightning else raw))
    kind = "Lightning checkpoint" if lightning else "state_dict"
    checkpoint = Checkpoint(f"{kind}, {layout}", state)
    if lightning:
        _read_lightning(checkpoint, raw)
    for reason, pattern in DROPPED.items():
        checkpoint.drop(reason, [name for name in state if re.fullmatch(pattern, name)])
    _to_float32(checkpoint, path)
    return checkpoint


def _tensors(path: Path, entries: Mapping[Any, Any]) -> Weights:
    """The entries of a state_dict; one that is no tensor would be lost unseen, and is refused."""
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise InputError(f"{path}: expected a state_dict of tensors, found keys {_few(entries)}")
    others = {name: value for name, value in entries.items() if str(name) not in tensors}
    if others:
        kinds = ", ".join(f"{name} ({type(value).__name__})" for name, value in others.items())
        raise InputError(f"{path}: expected tensors alone beside each other, found {kinds}")
    return tensors


def _read_lightning(checkpoint: Checkpoint, raw: Mapping[Any, Any]) -> None:
    """What a Lightning checkpoint tells beyond its `state_dict`."""
    hyper_parameters = raw.get("hyper_parameters")
    if isinstance(hyper_parameters, Mapping):
        checkpoint.hyper_parameters = hyper_parameters
    others = [str(name) for name in raw if "state_dict" in str(name) and name != "state_dict"]
    checkpoint.notes.extend(f"{name} left aside, state_dict taken" for name in others)


def read_file(path: Path) -> dict[str, Any]:
    """The mapping that a checkpoint file holds, tensors as NumPy arrays."""
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint file, found none")
    with path.open("rb") as file:
        head = file.read(512)
    if is_html(head):
        raise InputError(
            f"{path}: expected a checkpoint, found an HTML page (a download that was refused); "
            "delete it and download again"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: expected a checkpoint, found a Git LFS pointer; git lfs pull")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return dict(read_safetensors(path))
    return _read_torch(path)


def is_html(head: bytes) -> bool:
    """Whether a file's first bytes are those of an HTML page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html"))


def read_safetensors(path: Path) -> Weights:
    """The arrays of a `.safetensors` file.

    Raises:
        InputError: The file is cut short or is no safetensors file.
    """
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, found: {error}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        contents = read_torch_file(path)
    except Code as error:
        raise InputError(
            f"{path}: expected a checkpoint of tensors and plain values, found {error}"
        ) from None
    except Exception as error:  # whatever a broken file makes zipfile and the rest stumble over
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: expected a PyTorch checkpoint, found a truncated or foreign file ({reason})"
        ) from error
    if not isinstance(contents, dict):
        found = type(contents).__name__
        raise InputError(f"{path}: expected a dictionary of tensors, found {found}")
    return contents


def official_names(path: Path, state: Mapping[str, np.ndarray]) -> tuple[str, Weights]:
    """Tells the layout of a state_dict and renames its entries to the official names.

    Returns:
        The layout's name and the renamed entries; names of no known place are kept as they are.
    """
    layout, prefix = _layout_and_prefix(path, state)
    stripped = {name.removeprefix(prefix): array for name, array in state.items()}
    if len(stripped) != len(state):
        raise InputError(f"{path}: two sets of weights, with and without the prefix {prefix!r}")
    if layout.startswith("OpenVPRLab"):
        stripped = _from_openvprlab(stripped)
    if layout == "torchvision trunk":
        stripped = {f"backbone.model.{name}": array for name, array in stripped.items()}
    return layout, stripped


def _layout_and_prefix(path: Path, state: Mapping[str, np.ndarray]) -> tuple[str, str]:
    for layout, anchor in LAYOUTS.items():
        wrapped = re.compile(f"({WRAPPERS}){re.escape(anchor)}")
        for name in state:
            if match := wrapped.fullmatch(name):
                return layout, match[1]
    anchors = ", ".join(LAYOUTS.values())
    raise InputError(f"{path}: expected one of the keys {anchors}; found {_few(state)}")


def _from_openvprlab(state: Weights) -> Weights:
    """Stages in a row, the frozen ones first: 0 is the stem, s is layer{s}."""
    stem = {"0": "conv1", "1": "bn1"}
    pattern = re.compile(r"backbone\.(frozen|unfrozen)_layers\.(\d{1,4})\.(.+)")
    places = {name: match for name in state if (match := pattern.fullmatch(name))}
    frozen = (int(match[2]) for match in places.values() if match[1] == "frozen")
    num_frozen = 1 + max(frozen, default=-1)
    renamed = {}
    for name, array in state.items():
        if match := places.get(name):
            stage = int(match[2]) + (num_frozen if match[1] == "unfrozen" else 0)
            layer, _, rest = match[3].partition(".")
            place = stem.get(layer, layer) if stage == 0 else f"layer{stage}.{layer}"
            name = f"backbone.model.{place}.{rest}"
        renamed[name] = array
    return renamed


def _to_float32(checkpoint: Checkpoint, path: Path) -> None:
    kinds = {str(array.dtype) for array in checkpoint.state.values()} - {"float32"}
    for name, array in checkpoint.state.items():
        if array.dtype.kind != "f" and array.dtype != ml_dtypes.bfloat16:
            raise InputError(f"{path}: {name}: expected floats, found {array.dtype}")
        checkpoint.state[name] = array.astype(np.float32, copy=False)
    if kinds:
        checkpoint.notes.append(f"{', '.join(sorted(kinds))} weights stored as float32")


def _few(names: Mapping[str, Any]) -> str:
    shown = list(names)[:3]
    return f"{', '.join(map(str, shown))}{', …' if len(names) > 3 else ''}" or "none"
