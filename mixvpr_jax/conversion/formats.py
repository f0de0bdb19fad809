"""Reading a PyTorch checkpoint of any known kind: its weights under official names, its settings.

A checkpoint is read without executing anything in it, told apart by its names, and described by
its shapes. What is left out on purpose is listed with the reason.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mixvpr_jax.conversion.layouts import Layout, Weights, few, holds_weights, official_names, text
from mixvpr_jax.conversion.pickled_names import TensorRecord
from mixvpr_jax.conversion.restricted_pickle import Code
from mixvpr_jax.conversion.torch_files import open_torch_file
from mixvpr_jax.errors import InputError, text_of, what_else
from mixvpr_jax.storage import AnyPath

DROPPED = {
    "batch counters": r".*\.num_batches_tracked",
    "counters of averaged weights": r"n_averaged",
    "counters of thop": r"(.*\.)?total_(ops|params)",
    "head behind the backbone": r"backbone\.model\.(fc|classifier|head|head\.fc)\.(weight|bias)",
    "tables that are computed": r"backbone\.model\.layers\.\d+\.blocks\.\d+\."
    r"(attn_mask|attn\.(relative_coords_table|relative_position_index|k_bias))",
    "parameters of a loss or miner": r"(loss(es|_fn|_func|_function)?|criterion|miner)\..*",
}
_OWN = b'{"__metadata__":{"format":"mixvpr_jax"}'  # as the header of a model's weights begins
_OF_TRAINING = re.compile("optim|sched|scaler|rng|random")  # what holds tensors of no network
_DEPTH = 3  # dictionaries in which weights may lie within that of the file
_Keys = tuple[str, ...]  # lead to a dictionary within that of the file
_Entries = Mapping[Any, Any]
# What a file holds, the keys of its weights, these as arrays, counts of other values by type.
_Content = tuple[_Entries, _Keys, _Entries, Mapping[str, int]]


@dataclass
class Checkpoint:
    """A PyTorch checkpoint, understood."""

    kind: str  # for people
    layout: Layout
    state: Weights  # official names and arrays in PyTorch's layout; floats as float32
    dropped: dict[str, list[str]] = field(default_factory=dict)  # on purpose: reason → names
    notes: list[str] = field(default_factory=list)  # what was assumed or changed
    settings: _Entries = field(default_factory=dict)  # what lies beside the weights

    def drop(self, reason: str, pattern: str) -> None:
        """Moves the entries that a pattern fits from `state` to `dropped`."""
        names = [name for name in self.state if re.fullmatch(pattern, name)]
        for name in names:
            del self.state[name]
        if names:
            self.dropped[reason] = names

    def count(self, pattern: str) -> int:
        """The number of modules, numbered from 0; the pattern's group is the number in a name."""
        matches = (re.match(pattern, name) for name in self.state)
        return 1 + max((int(match[1]) for match in matches if match), default=-1)

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of a named array; InputError if it is missing, empty or of another rank."""
        if name not in self.state:
            raise InputError(f"missing {name}, without which the model cannot be inferred")
        shape = self.state[name].shape
        if len(shape) != rank or 0 in shape:
            raise InputError(
                f"{name}: expected {rank} axes, none of them empty, found {list(shape)}"
            )
        return shape


def read_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Reads `.ckpt`, `.pth`, `.pt` (any pickle that holds data alone) or `.safetensors`.

    `key` says where in it the weights lie ("model_state_dict", "ema.model"), if in several places.
    """
    path = Path(path)
    content = _read(path, key)
    try:
        return _understood(content, key)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _understood(content: _Content, key: str | None) -> Checkpoint:
    whole, keys, entries, aside = content
    twice = [name for name, count in Counter(map(text, entries)).items() if count > 1]
    if twice:
        raise InputError(f"expected each name once, found {few(twice)} as text and as a number")
    tensors = {text(name): v for name, v in entries.items() if type(v) is np.ndarray}
    others = {text(name): v for name, v in entries.items() if type(v) is not np.ndarray}
    if not tensors:
        of_numpy = any(name.endswith("._reconstruct") for name in aside)
        remedy = "; NumPy arrays are not read: save torch.from_numpy(array)" * of_numpy
        raise InputError(f"expected a state_dict of tensors, found keys {few(entries)}{remedy}")
    if deeper := [f"{n} ({type(v).__name__})" for n, v in others.items() if list(_shapes(v))]:
        raise InputError(f"expected tensors alone in a state_dict, found {', '.join(deeper)}")
    layout, state = official_names(tensors)
    kind = "Lightning checkpoint" if keys[:1] == ("state_dict",) else "state_dict"
    beside = {n: v for n, v in whole.items() if not _is_tensor(v)}
    checkpoint = Checkpoint(f"{kind}, {layout.name}", layout, state, settings=beside)
    notes = checkpoint.notes
    if keys and keys != ("state_dict",):
        notes.append(f"weights taken from {_joined(keys)}")
    places = _places(whole)
    for other in places if key is None else ():
        if other != keys:
            notes.append(f"{_joined(other)} left aside, {_joined(keys)} taken (--key says which)")
    if tensors_aside := _tensors_beside(whole, keys, places):
        notes.append(f"tensors left aside in {few(tensors_aside)}")
    if aside:
        notes.append(f"{sum(aside.values()):,} values beside the weights left aside ({few(aside)})")
    if others:
        checkpoint.dropped["entries that are no tensors"] = list(others)
    for reason, pattern in DROPPED.items():
        checkpoint.drop(reason, pattern)
    floats = {name: array for name, array in state.items() if is_float(array.dtype)}
    if kinds := sorted({str(array.dtype) for array in floats.values()} - {"float32"}):
        notes.append(f"{', '.join(kinds)} weights stored as float32")
    state.update({name: array.astype(np.float32, copy=False) for name, array in floats.items()})
    return checkpoint


def is_float(dtype: np.dtype) -> bool:
    """Whether weights may be of a type: floats of NumPy, and bfloat16."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def values_within(value: Any) -> Iterator[Any]:
    """A value and all in it, however deep."""
    seen, waiting = set[int](), [value]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)


def _shapes(value: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all tensors in a value."""
    found = values_within(value)
    return (each.shape for each in found if _is_tensor(each))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorRecord | np.ndarray)


def _tensors_beside(whole: _Entries, keys: _Keys, known: Iterable[_Keys]) -> list[str]:
    """Where tensors lie that may be weights: averaged ones in a list, an aggregator's own."""
    found = []
    for depth, key in enumerate(keys):
        for name, value in whole.items():
            place = (*keys[:depth], text(name))
            is_known = name == key or any(other[: depth + 1] == place for other in known)
            if not is_known and not _OF_TRAINING.search(text(name)) and any(_shapes(value)):
                found.append(_joined(place))
        whole = whole[key]
    return found


# Where the weights lie ----------------------------------------------------------------------------


def _keys_of_weights(content: _Entries, key: str | None) -> _Keys:
    """The keys that lead to the dictionary of the weights."""
    if key is not None:
        return _keys_of(content, key)
    places = _places(content)
    if ("state_dict",) in places or not places:  # an error names what it holds
        return ("state_dict",) if isinstance(content.get("state_dict"), Mapping) else ()
    if len({id(place) for place in places.values()}) > 1:
        several = ", ".join(map(_joined, list(places)[:5]))
        raise InputError(
            f"expected one set of weights, found {several}; say which one with --key NAME"
        )
    return next(iter(places))


def _keys_of(content: _Entries, key: str) -> _Keys:
    """The keys of which a dotted name consists; the keys may have dots of their own."""
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            if name == key:
                return (name,)
            if key.startswith(f"{name}."):
                return (name, *_keys_of(value, key.removeprefix(f"{name}.")))
    raise InputError(f"--key {key}: expected a dictionary in the file, found keys {few(content)}")


def _places(content: _Entries) -> dict[_Keys, _Entries]:
    """The dictionaries that hold a network's weights, by the keys that lead there."""
    places, level = dict[_Keys, _Entries](), [((), content)]
    checked: dict[int, bool] = {}  # one dictionary may lie in many places
    for _ in range(_DEPTH + 1):
        deeper = []
        for keys, value in level:
            if id(value) not in checked:
                checked[id(value)] = holds_weights(n for n, v in value.items() if _is_tensor(v))
                inner = [(n, v) for n, v in value.items() if isinstance(n, str)]
                deeper += [((*keys, n), v) for n, v in inner if isinstance(v, Mapping)]
            if checked[id(value)]:
                places[keys] = value
        level = deeper
    return places


def _joined(keys: _Keys) -> str:
    return ".".join(keys) or "the file's own entries"


# Files --------------------------------------------------------------------------------------------


def _read(path: Path, key: str | None) -> _Content:
    if path.is_dir():
        parts = (_part(file.name) for depth in ("*", "*/*") for file in path.glob(depth))
        found = next(filter(None, parts), "a folder; give the file in it")
        raise InputError(f"{path}: expected a checkpoint file, found {found}")
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint file, found none")
    with path.open("rb") as file:
        head = file.read(512)
    if foreign := what_else(head) or _part(path.name):
        raise InputError(f"{path}: expected a checkpoint, found {foreign}")
    if is_own(path):
        raise InputError(
            f"{path}: expected a model of PyTorch, found one of mixvpr-jax, which needs no "
            "conversion; give its folder where weights are asked for"
        )
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        if key is not None:
            raise InputError(f"{path}: --key {key}: expected none of a safetensors file")
        arrays = read_safetensors(path)
        return arrays, (), arrays, {}
    try:
        return _read_torch(path, key)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # whatever a broken file makes zipfile and the rest stumble over
        found = _why(head, error)
        if isinstance(error, Code):  # of a whole module, or of settings: an enum, functools'
            found += "; if you trust it, save its state_dict alone with PyTorch, or its settings "
            found += "too, as plain values, which are read"
        else:
            found = f"a truncated or foreign file ({found})"
        raise InputError(f"{path}: expected a PyTorch checkpoint, found {found}") from error


def _read_torch(path: Path, key: str | None) -> _Content:
    with open_torch_file(path) as file:
        entries = file.content
        if not isinstance(entries, dict):
            found = "one tensor" if type(entries) is TensorRecord else type(entries).__name__
            raise InputError(f"expected a dictionary of tensors, found {found}")
        keys = _keys_of_weights(entries, key)
        for name in keys:
            entries = entries[name]
        return file.content, keys, file.arrays(entries), file.aside


def _part(name: str) -> str | None:
    """What a file is a part of, by the names that Hugging Face, PyTorch and DeepSpeed give."""
    shard = re.search(r"-\d{5}-of-(\d{5})\.(safetensors|bin)$", name)
    if shard and int(shard[1]) > 1:
        return "one shard of several; save them as one file"
    if name.endswith(".index.json"):
        return "an index of shards; save these as one file"
    if name == ".metadata" or name.endswith(".distcp"):
        merge = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        return f"a part of a distributed checkpoint; merge its folder into a file by {merge}"
    if re.match(r"(bf16_)?zero_pp_rank_\d", name):
        return "a part of DeepSpeed's checkpoint; merge its folder into a file by zero_to_fp32.py"
    return None


def is_own(file: AnyPath) -> bool:
    """Whether a file holds a model's weights as `save_pretrained` writes them."""
    with file.open("rb") as opened:
        return opened.read(8 + len(_OWN))[8:] == _OWN


def read_safetensors(path: str | os.PathLike[str]) -> Weights:
    """The arrays of a `.safetensors` file; InputError if it is cut short or none."""
    import safetensors.numpy

    path = Path(path)
    with path.open("rb") as file:
        head = file.read(512)
    of_torch = "one of PyTorch under that name" if head.startswith(b"PK\x03\x04") else None
    if foreign := of_torch or what_else(head):
        raise InputError(f"{path}: expected a whole safetensors file, found {foreign}")
    try:
        arrays = safetensors.numpy.load_file(path)
    except AttributeError as error:  # of a type that NumPy does not have, such as float8_e4m3fn
        raise InputError(
            f"{path}: expected floats of 16 bits or more, found {error.name}; save them as float32"
        ) from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a whole safetensors file, found: {_why(head, error)}"
        ) from error
    _require_its_end(path, arrays)
    return arrays


def _require_its_end(path: Path, arrays: Weights) -> None:
    """Refuses a file that ends in zeros if they begin within an array and fill a whole matrix."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = file.offset_keys()[::-1]
    empty = list(takewhile(lambda name: not arrays[name].any(), names))
    before = names[len(empty) : len(empty) + 1]  # none where all are zero
    cut = any(not arrays[name].ravel()[-8:].any() for name in before)
    if cut and any(arrays[name].ndim > 1 for name in empty):
        raise InputError(
            f"{path}: expected a whole safetensors file, found zeros alone from {before[0]} on, as "
            "an interrupted download or copy leaves them; fetch it again"
        )


def _why(head: bytes, error: Exception) -> str:
    """Why a file cannot be read: it is text, such as a server's error, or what its reader says."""
    if re.fullmatch(rb"[\s -~]+", head):
        return f"text that begins {head[:80].decode()!r}"
    return text_of(error)[:200]
