"""What the names in the pickle of a PyTorch checkpoint stand for.

People keep numbers of NumPy, paths, dates, settings and random states with the weights. Settings
are read, for they may hold a model's; the rest is counted and left aside.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from mixvpr_jax.conversion.restricted_pickle import (
    BROKEN,
    MOST_OPERATIONS,
    Code,
    DType,
    Inert,
    load,
    name_of,
    stand_in,
)

_STORAGES = {
    f"torch {name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": ml_dtypes.bfloat16,
        "Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?",
        "ComplexFloat": "c8", "ComplexDouble": "c16",
    }.items()
}  # fmt: skip
_STORAGES["torch.storage UntypedStorage"] = np.dtype(np.uint8)
_DTYPES = {f"torch {dtype.name}": dtype for dtype in _STORAGES.values()}
for _name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"):
    _DTYPES[f"torch {_name}"] = np.dtype(_name)  # of ml_dtypes, too
# Called, and read: tensors and what may hold a model's settings.
_READ = re.compile(
    r"torch\._utils _rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter"
    r"|torch (Size|device)|torch\.torch_version TorchVersion|collections (OrderedDict|deque)"
    r"|argparse Namespace|types SimpleNamespace|builtins (set|complex)|_codecs encode"
    r"|numpy dtype|numpy\._?core\.multiarray scalar|_operator getitem"  # of List[int]
    r"|builtins getattr"  # of _TYPES alone
    r"|omegaconf\.(dictconfig Dict|listconfig List|tupleconfig Tuple)Config"
    r"|omegaconf\.(nodes \w+Node|base (Container)?Metadata)"
)
# Read as plain dictionaries.
_DICTIONARY = re.compile(
    r"collections (Counter|defaultdict)"
    r"|(lightning\.fabric|lightning_fabric)\.utilities\.data AttributeDict"
    r"|(lightning\.pytorch|pytorch_lightning)\.utilities\.parsing AttributeDict"
    r"|easydict EasyDict|(yacs|fvcore\.common)\.config CfgNode|addict\.addict Dict"
    r"|(mmcv\.utils|mmengine\.config)\.config ConfigDict"
)
# Called, and left aside.
_ASIDE = re.compile(
    r"pathlib(\._local)? (Pure)?(Posix|Windows)?Path"
    r"|datetime (datetime|date|time|timedelta|timezone)"
    r"|builtins (range|xrange|slice|frozenset)|decimal Decimal|fractions Fraction|uuid UUID"
    r"|torch\._C Generator|torch\.serialization _get_layout"
    r"|numpy\._?core\.multiarray _reconstruct|numpy\._?core\.numeric _frombuffer"
    r"|numpy\.random\._pickle __(generator|bit_generator|randomstate)_ctor"
    r"|numpy\.random\.bit_generator __pyx_unpickle_SeedSequence"
)
# Named in arguments, or kept themselves; filters alone are called.
_TYPES = re.compile(
    r"builtins (object|type|NoneType|bool|int|long|float|str|unicode|list|tuple|dict|Ellipsis)"
    r"|typing \w+|numpy (ndarray|(u?int|float|complex)\d{1,3}|bool_?|str_|bytes_)"
    r"|numpy\.random\.\w+ (MT19937|PCG64|PCG64DXSM|Philox|SFC64|SeedSequence)"
    r"|torch (Tensor|per_\w+_affine|per_channel_affine_float_qparams|strided|sparse_coo)"
    r"|pytorch_lightning\.callbacks\.[\w.]+ \w+"  # keys, before Lightning 1.5
    r"|torch\.optim\.(lr_scheduler OneCycleLR|swa_utils SWALR)(\.\w+)?"  # keep functions
    r"|torchvision\.transforms\.functional InterpolationMode"
)
_NUMBER = re.compile(r"[biuf][1248]|c8|c16")
_MOST_AXES = 64  # of NumPy's arrays


@dataclass(frozen=True, eq=False)
class _Storage(Inert):
    """`count` elements from `start` on of the bytes under a key."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclass(frozen=True, eq=False)
class TensorRecord(Inert):
    """A tensor that is still in the file."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storage: memoryview) -> np.ndarray:
        """The array, given the bytes under its storage's key."""
        size = self.storage.dtype.itemsize
        own = storage[self.storage.start * size :][: self.storage.count * size]
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        size = self.dtype.itemsize
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * step for length, step in steps)
        if (last + 1) * size > len(own):  # in whole numbers, where NumPy's own check overflows
            raise ValueError(f"a tensor {list(self.shape)} in {len(own) // size:,} elements")
        strides = [step * size for step in self.strides]
        return np.ndarray(self.shape, self.dtype, own, self.offset * size, strides)


class _Aside(Inert):
    """A value that is left aside, with all that it would hold."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary(dict):
    """A dictionary whose attributes, such as a state_dict's `_metadata`, are passed over."""

    __slots__ = ()
    __setstate__ = _Aside.__setstate__


class _Namespace(dict):
    """Settings that were attributes."""

    def __init__(self, once: Callable[[dict], dict]) -> None:
        self.once = once

    def __setstate__(self, state: Any) -> None:
        self.update(self.once(state) if isinstance(state, dict) else {})


class _DictConfig(_Namespace):
    """Settings of OmegaConf. They, its lists and its other values lead back to what holds them."""

    def __setstate__(self, state: Any) -> None:
        if type(content := state["_content"]) is dict:  # None or text where all of it is missing
            items = self.once(content).items()
            self.update({n: getattr(v, "plain", v) for n, v in items if isinstance(n, str)})


class _ListConfig(list):
    def __init__(self, once: Callable[[list], list]) -> None:
        self.once = once

    def __setstate__(self, state: Any) -> None:
        if type(content := state["_content"]) is list:
            self.extend(getattr(item, "plain", item) for item in self.once(content))


class _Node(Inert):
    def __setstate__(self, state: Any) -> None:
        self.plain = state.get("_val")


class Names:
    """What the names in one file stand for; `sizes` and `aside` as in `TorchFile`."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.aside = Counter[str]()
        self._known: dict[str, Any] = dict(_DTYPES)
        self._copied, self._most = 0, MOST_OPERATIONS

    def load(self, stream: io.BytesIO) -> Any:
        """The pickle that begins here; raises Code for a name that stands for nothing."""
        # Older protocols write bytes, such as those of NumPy's arrays, as text.
        self._most = max(self._most, len(stream.getvalue()))
        return load(stream, self._find, self._persistent)

    def _find(self, name: str) -> Any:
        name = name.replace("__builtin__ ", "builtins ")  # Python 2's
        if name not in self._known:
            patterns = (_READ, _DICTIONARY, _ASIDE, _TYPES)
            if name not in _STORAGES and not any(names.fullmatch(name) for names in patterns):
                raise Code(name)
            self._known[name] = stand_in(name, partial(self._call, name))
        return self._known[name]

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a call makes: a tensor, a plain value, or something left aside.

        Whatever it copies goes through `_once`: many calls may be given the same.
        """
        match name.split()[1], arguments:
            case "_rebuild_from_type_v2", (kind, _, tuple() as own, _):
                inner = name_of(kind)
                if inner is not None and inner != name and _READ.fullmatch(inner):
                    return self._call(inner, *own)
            case "_rebuild_tensor_v3", (_Storage() as at, *rest) if len(rest) > 5:
                return _tensor(at, rest, rest[5])
            case "_rebuild_tensor" | "_rebuild_tensor_v2", (_Storage() as at, *rest):
                return _tensor(at, rest, at.dtype)
            case kind, (TensorRecord() as tensor, *_) if "parameter" in kind.lower():
                return tensor
            case "OrderedDict", (list() as pairs,):
                return _Dictionary(self._hashed(pairs))
            case _, (dict() as content, *_) if _DICTIONARY.fullmatch(name):
                return content
            case kind, _ if _DICTIONARY.fullmatch(name) or (kind, arguments) == ("OrderedDict", ()):
                return _Dictionary()
            case "Namespace" | "SimpleNamespace", _:
                return _Namespace(self._once)
            case "DictConfig", _:
                return _DictConfig(self._once)
            case "ListConfig" | "TupleConfig", _:
                return _ListConfig(self._once)
            case _ if name.startswith(("omegaconf.", "_operator ")):
                return _Node()
            case "deque", _:
                return arguments[0] if arguments and type(arguments[0]) is list else []
            case "Size", (tuple() | list() as sizes,) if len(sizes) <= _MOST_AXES:
                if all(type(size) is int for size in sizes):
                    return tuple(sizes)
            case ("device", (str(text), *_)) | ("TorchVersion" | "InterpolationMode", (str(text),)):
                return text
            case "set", (list() as items,):
                return set(self._hashed(items))
            case "complex", (float(real), float(imaginary)):
                return complex(real, imaginary)
            case "getattr", (kind, str(value)) if _TYPES.fullmatch(name_of(kind) or ""):
                return value
            case "getattr", _:
                raise Code(name)
            case "encode", (str(text), "latin1"):
                return self._once(text).encode("latin1")
            case "dtype", (code, *_):
                return DType(code)
            case "scalar", (DType() as dtype, bytes(data)) if _NUMBER.fullmatch(dtype.code):
                return np.frombuffer(data, dtype.to_numpy()).item()
        if _ASIDE.fullmatch(name) or name.endswith(" scalar"):
            self.aside[name.replace(" ", ".")] += 1
            return _Aside()
        raise ValueError(f"a call of {name.replace(' ', '.')} as PyTorch makes none")

    def _hashed(self, items: Any) -> Any:
        for item in self._once(items):
            if isinstance(item, list | tuple):
                self._hashed(item)
        return items

    def _once(self, items: Any) -> Any:
        self._copied += len(items)
        if self._copied > self._most:
            raise ValueError(BROKEN)
        return items

    def _persistent(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", kind, str(key), _, int(count), *view):
                dtype = _STORAGES[name_of(kind) or ""]
                size = self.sizes.setdefault(key, count * dtype.itemsize)
                if count < 0 or size != count * dtype.itemsize:
                    raise ValueError(BROKEN)
                match view:
                    case [] | [None]:
                        return _Storage(key, dtype, count)
                    case [(_, int(start), int(length))] if 0 <= start <= start + length <= count:
                        return _Storage(key, dtype, length, start)
        raise ValueError(BROKEN)


def _tensor(storage: _Storage, steps: list[Any], dtype: Any) -> TensorRecord:
    offset, shape, strides, *others = steps
    if any(isinstance(value, dict) and value.get("neg") for value in others):
        raise ValueError("a tensor stored with its signs reversed; save a clone of it")
    numbers = (offset, *shape, *strides)
    if not isinstance(dtype, np.dtype) or not len(shape) == len(strides) <= _MOST_AXES:
        raise ValueError(BROKEN)
    if not all(type(n) is int and 0 <= n < 2**60 for n in numbers):
        raise ValueError(BROKEN)
    return TensorRecord(storage, dtype, offset, tuple(shape), tuple(strides))
