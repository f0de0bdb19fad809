"""Reading a PyTorch checkpoint of any known kind: its weights under official names, its settings.

A checkpoint is read without executing anything in it, told apart by its names, and described by
its shapes. What is left out on purpose is listed with the reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mixvpr_jax.conversion.hyper_parameters import Told, read_hyper_parameters
from mixvpr_jax.conversion.key_table import (
    Layout,
    Weights,
    few,
    holds_weights,
    official_names,
    text,
)
from mixvpr_jax.conversion.restricted_pickle import Code
from mixvpr_jax.conversion.torch_files import TorchFile, read_torch_file
from mixvpr_jax.conversion.torch_values import TensorRecord
from mixvpr_jax.errors import InputError

DROPPED = {
    "batch counters": r".*\.num_batches_tracked",
    "counters of averaged weights": r"n_averaged",
    "ImageNet classifier": r"backbone\.model\.fc\..*",
    "parameters of a loss or miner": r"(loss_fn|loss_function|loss|criterion|miner)\..*",
}
_DEPTH = 2  # dictionaries in which weights may lie within that of the file


@dataclass
class Checkpoint:
    """A PyTorch checkpoint, understood.

    Attributes:
        kind: What it is, for people.
        layout: Whose names it has.
        state: Official names and arrays, float32, in PyTorch's layout; only what is used.
        dropped: What was left out on purpose: reason → names.
        notes: What was assumed or changed while reading.
        told: What its hyper-parameters tell.
    """

    kind: str
    layout: Layout
    state: Weights
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    told: Told = field(default_factory=Told)

    def drop(self, reason: str, names: list[str]) -> None:
        """Moves entries that are known and not needed from `state` to `dropped`."""
        for name in names:
            del self.state[name]
        if names:
            self.dropped.setdefault(reason, []).extend(names)


def read_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Reads `.ckpt`, `.pth`, `.pt` (any pickle that holds data alone) or `.safetensors`.

    Args:
        path: The file.
        key: Where in it the weights lie ("model_state_dict", "ema.model"), if in several places.

    Raises:
        InputError: A file that is missing, cut short, HTML, not a checkpoint, or holds code.
    """
    path = Path(path)
    file, keys = _read(path, key)
    tensors, values = _tensors(path, _at(file.content, keys))
    layout, state = official_names(path, tensors)
    told = read_hyper_parameters(
        file.content.get("hyper_parameters"), file.content.get("datamodule_hyper_parameters")
    )
    kind = "Lightning checkpoint" if keys[:1] == ("state_dict",) else "state_dict"
    checkpoint = Checkpoint(f"{kind}, {layout.name}", layout, state, told=told)
    if keys and keys != ("state_dict",):
        checkpoint.notes.append(f"weights taken from {_joined(keys)}")
    for others in _places(file.content) if key is None else ():
        if others != keys:
            line = f"{_joined(others)} left aside, {_joined(keys)} taken (--key says which)"
            checkpoint.notes.append(line)
    checkpoint.notes.extend(told.notes)
    if file.aside:
        count, kinds = sum(file.aside.values()), few(file.aside)
        checkpoint.notes.append(f"{count:,} values beside the weights left aside ({kinds})")
    if values:
        checkpoint.dropped["entries that are no tensors"] = values
    for reason, pattern in DROPPED.items():
        checkpoint.drop(reason, [name for name in state if re.fullmatch(pattern, name)])
    _to_float32(checkpoint, path)
    return checkpoint


def _tensors(path: Path, entries: Mapping[Any, Any]) -> tuple[Weights, list[str]]:
    """The tensors of a state_dict, and the names of plain values beside them.

    Tensors that lie deeper would be lost unseen, and are refused.
    """
    tensors = {text(name): value for name, value in entries.items() if type(value) is np.ndarray}
    if not tensors:
        raise InputError(f"{path}: expected a state_dict of tensors, found keys {few(entries)}")
    others = {text(name): v for name, v in entries.items() if type(v) is not np.ndarray}
    deeper = [f"{n} ({type(v).__name__})" for n, v in others.items() if _holds_tensors(v)]
    if deeper:
        found = ", ".join(deeper)
        raise InputError(f"{path}: expected tensors alone beside each other, found {found}")
    return tensors, list(others)


def _holds_tensors(value: Any) -> bool:
    """Whether there is a tensor in a value, however deep."""
    seen, waiting = set[int](), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorRecord | np.ndarray):
            return True
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
    return False


def _weights_in(content: Mapping[Any, Any], key: str | None) -> tuple[str, ...]:
    """The keys that lead to the dictionary of the weights.

    Raises:
        InputError: There are several, or none where the key says.
    """
    if key is not None:
        return _keys_of(content, key)
    places = _places(content)
    if ("state_dict",) in places or not places:  # an error names what it holds
        return ("state_dict",) if isinstance(content.get("state_dict"), Mapping) else ()
    found = {id(_at(content, place)) for place in places}
    if len(found) > 1:
        several = ", ".join(map(_joined, places[:5]))
        raise InputError(
            f"expected one set of weights, found {several}; say which one with --key NAME"
        )
    return places[0]


def _keys_of(content: Mapping[Any, Any], key: str) -> tuple[str, ...]:
    """The keys of which a dotted name consists; the keys may have dots of their own."""
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            if name == key:
                return (name,)
            if key.startswith(f"{name}."):
                return (name, *_keys_of(value, key.removeprefix(f"{name}.")))
    raise InputError(f"--key {key}: expected a dictionary in the file, found keys {few(content)}")


def _places(content: Mapping[Any, Any]) -> list[tuple[str, ...]]:
    """Where in the content of a file the weights of a network lie."""
    checked: dict[int, bool] = {}

    def is_weights(value: Mapping[Any, Any]) -> bool:
        if id(value) not in checked:
            checked[id(value)] = holds_weights(value)
        return checked[id(value)]

    return [keys for keys, value in _mappings(content) if is_weights(value)]


def _mappings(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The dictionaries of a file with the keys that lead there, each looked into once."""
    seen, level = {id(content)}, [((), content)]
    yield (), content
    for _ in range(_DEPTH):
        deeper = []
        for keys, value in level:
            for name, inner in value.items():
                if isinstance(name, str) and isinstance(inner, Mapping):
                    yield (*keys, name), inner
                    if id(inner) not in seen:
                        seen.add(id(inner))
                        deeper.append(((*keys, name), inner))
        level = deeper


def _at(content: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        content = content[key]
    return content


def _joined(keys: Sequence[str]) -> str:
    return ".".join(keys) or "the file's own entries"


def read_file(path: Path) -> dict[str, Any]:
    """The mapping that a checkpoint file holds, the weights as NumPy arrays."""
    return _read(path, None)[0].content


def _read(path: Path, key: str | None) -> tuple[TorchFile, tuple[str, ...]]:
    """A file, and the keys that lead to its weights."""
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint file, found none")
    with path.open("rb") as file:
        head = file.read(512)
    if foreign := what_else(head):
        raise InputError(f"{path}: expected a checkpoint, found {foreign}")
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        if key is not None:
            raise InputError(f"{path}: --key {key}: expected none of a safetensors file")
        return TorchFile(dict(read_safetensors(path)), Counter()), ()
    return _read_torch(path, key)


def what_else(head: bytes) -> str | None:
    """What lies in place of a file that a website or Git should have given; by its first bytes."""
    if is_html(head):
        return "an HTML page (a download that was refused); delete it and download again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; git lfs pull"
    return None


def is_html(head: bytes) -> bool:
    """Whether a file's first bytes are those of an HTML page."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html"))


def read_safetensors(path: str | os.PathLike[str]) -> Weights:
    """The arrays of a `.safetensors` file.

    Raises:
        InputError: The file is cut short or is no safetensors file.
    """
    import safetensors.numpy

    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
    if foreign := what_else(head):
        raise InputError(f"{path}: expected a safetensors file, found {foreign}")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{path}: expected a safetensors file, found one of PyTorch under that name"
        )
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, found: {error}") from error


def _read_torch(path: Path, key: str | None) -> tuple[TorchFile, tuple[str, ...]]:
    keys: tuple[str, ...] = ()

    def wanted(content: dict) -> tuple[str, ...]:
        nonlocal keys
        keys = _weights_in(content, key)
        return keys

    try:
        file = read_torch_file(path, wanted)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Code as error:
        raise InputError(
            f"{path}: expected a checkpoint of tensors and plain values, found {error}"
        ) from None
    except Exception as error:  # whatever a broken file makes zipfile and the rest stumble over
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: expected a PyTorch checkpoint, found a truncated or foreign file ({reason})"
        ) from error
    if not isinstance(file.content, dict):
        found = type(file.content).__name__
        raise InputError(f"{path}: expected a dictionary of tensors, found {found}")
    return file, keys


def is_float(dtype: np.dtype) -> bool:
    """Whether weights may be of a type: floats of NumPy, and bfloat16."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _to_float32(checkpoint: Checkpoint, path: Path) -> None:
    kinds = {str(array.dtype) for array in checkpoint.state.values()} - {"float32"}
    for name, array in checkpoint.state.items():
        if not is_float(array.dtype):
            raise InputError(f"{path}: {name}: expected floats, found {array.dtype}")
        checkpoint.state[name] = array.astype(np.float32, copy=False)
    if kinds:
        checkpoint.notes.append(f"{', '.join(sorted(kinds))} weights stored as float32")
