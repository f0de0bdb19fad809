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
from mixvpr_jax.torch_weights import Weights

# What a known kind of checkpoint calls the stem's convolution, most specific first.
LAYOUTS = {
    "official (MixVPR, gsv-cities)": "backbone.model.conv1.weight",
    "OpenVPRLab": "backbone.frozen_layers.0.0.weight",
    "torchvision trunk": "conv1.weight",
}
WRAPPERS = r"((module|model|_orig_mod)\.)*"
DROPPED = {
    "batch counters": r".*\.num_batches_tracked",
    "ImageNet classifier": r"backbone\.model\.fc\..*",
    "parameters of a loss or miner": r"(loss_fn|loss|criterion|miner)\..*",
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
    container = "Lightning checkpoint" if isinstance(nested, Mapping) else "state_dict"
    state = {name: value for name, value in (nested or raw).items() if hasattr(value, "shape")}
    if not state:
        raise InputError(f"{path}: expected a state_dict of tensors, found keys {_few(raw)}")
    layout, state = official_names(path, state)
    hyper_parameters = raw.get("hyper_parameters", {}) if nested else {}
    checkpoint = Checkpoint(f"{container}, {layout}", state, hyper_parameters=hyper_parameters)
    for reason, pattern in DROPPED.items():
        checkpoint.drop(reason, [name for name in state if re.fullmatch(pattern, name)])
    _to_float32(checkpoint, path)
    return checkpoint


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
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _read_torch(path)


def is_html(head: bytes) -> bool:
    """Whether a file's first bytes are those of an HTML page."""
    return head.lstrip().lower().startswith((b"<!doctype", b"<html"))


def read_safetensors(path: Path) -> Weights:
    """The arrays of a `.safetensors` file.

    Raises:
        InputError: The file is cut short or is no safetensors file.
    """
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, found: {error}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise InputError(
            "PyTorch is needed to read this checkpoint: pip install 'mixvpr-jax[convert]'"
        ) from None
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, runtime, key and end-of-file errors
        if "weights_only" in str(error) or "Unsupported" in str(error):
            found = _first_line(error)
            raise InputError(
                f"{path}: expected a checkpoint of tensors and plain values, found a pickle with "
                f"code in it, which was not executed ({found})"
            ) from error
        raise InputError(
            f"{path}: expected a PyTorch checkpoint, found a truncated or foreign file "
            f"({_first_line(error)})"
        ) from error
    if not isinstance(raw, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(raw).__name__}")
    return _to_numpy(raw)


def _to_numpy(value: Any) -> Any:
    """Tensors of a nested dictionary as arrays of the same type."""
    import torch

    if isinstance(value, Mapping):
        return {name: _to_numpy(item) for name, item in value.items()}
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:  # which NumPy knows from ml_dtypes alone
            return value.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return value.detach().numpy()
    return value


def official_names(path: Path, state: Mapping[str, np.ndarray]) -> tuple[str, Weights]:
    """Tells the layout of a state_dict and renames its entries to the official names.

    Returns:
        The layout's name and the renamed entries; names of no known place are kept as they are.
    """
    layout, prefix = _layout_and_prefix(path, state)
    stripped = {name.removeprefix(prefix): array for name, array in state.items()}
    if len(stripped) != len(state):
        raise InputError(f"{path}: two sets of weights, with and without the prefix {prefix!r}")
    if layout == "OpenVPRLab":
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
    """Stages in a row, the frozen ones first: 0 is the stem (0 conv1, 1 bn1), s is layer{s}."""
    pattern = re.compile(r"backbone\.(frozen|unfrozen)_layers\.(\d+)\.(.+)")
    places = {name: match for name in state if (match := pattern.fullmatch(name))}
    num_frozen = 1 + max(int(m[2]) for m in places.values() if m[1] == "frozen")
    renamed = {}
    for name, array in state.items():
        if match := places.get(name):
            stage = int(match[2]) + (num_frozen if match[1] == "unfrozen" else 0)
            rest = match[3].replace("0.", "conv1.", 1) if stage == 0 else match[3]
            rest = re.sub(r"^1\.", "bn1.", rest) if stage == 0 else f"layer{stage}.{rest}"
            name = f"backbone.model.{rest}"
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


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "GLOBAL" in line), lines[0] if lines else repr(error))
