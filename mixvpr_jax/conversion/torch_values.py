"""What the pickle in a file of PyTorch stands for: tensors, settings, and what is left aside.

People keep numbers of NumPy, paths, dates, settings and random states beside weights. Settings are
read, for they may hold a model's; the rest is counted, and what it holds is not looked at.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from mixvpr_jax.conversion.restricted_pickle import (
    BROKEN,
    MOST_OPERATIONS,
    Code,
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
_DTYPES |= {f"torch {name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")}
_DTYPES |= {
    f"torch {name}": np.dtype(getattr(ml_dtypes, name)) for name in ("float8_e4m3fn", "float8_e5m2")
}
# Called, and read: tensors and what may hold a model's settings.
_READ = re.compile(
    r"torch\._utils _rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter"
    r"|torch (Size|device)|torch\.torch_version TorchVersion"
    r"|collections (OrderedDict|Counter|defaultdict|deque)"
    r"|(lightning\.fabric|lightning_fabric)\.utilities\.data AttributeDict"
    r"|(lightning\.pytorch|pytorch_lightning)\.utilities\.parsing AttributeDict"
    r"|argparse Namespace|types SimpleNamespace|builtins (set|complex)|_codecs encode"
    r"|numpy dtype|numpy\._?core\.multiarray scalar"
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
# Named in arguments, or kept themselves; never called.
_TYPES = re.compile(
    r"builtins (object|type|NoneType|bool|int|long|float|str|unicode|list|tuple|dict|Ellipsis)"
    r"|numpy (ndarray|(u?int|float|complex)\d{1,3}|bool_?|str_|bytes_)"
    r"|numpy\.random\.\w+ (MT19937|PCG64|PCG64DXSM|Philox|SFC64|SeedSequence)"
    r"|torch (Tensor|per_\w+_affine|per_channel_affine_float_qparams|strided|sparse_coo)"
)
_NUMBER = re.compile(r"[biuf][1248]|c8|c16")
_MOST_AXES = 64  # of NumPy's arrays

_Items = TypeVar("_Items", bound=Collection[Any])


@dataclass(frozen=True, eq=False)
class _Storage(Inert):
    """`count` elements from `start` on of what goes by a key."""

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

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, storage: memoryview) -> np.ndarray:
        """The array, out of the bytes of what goes by its storage's key."""
        size = self.storage.dtype.itemsize
        own = storage[self.storage.start * size :][: self.storage.count * size]
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        size = self.dtype.itemsize
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * step for length, step in steps)
        if (last + 1) * size > len(own):  # in whole numbers, where NumPy's own check overflows
            count = len(own) // size
            raise ValueError(f"a tensor {list(self.shape)} in {count:,} elements")
        strides = [step * size for step in self.strides]
        return np.ndarray(self.shape, self.dtype, own, self.offset * size, strides)


class _Aside(Inert):
    """A value that is left aside; what it would hold is passed over."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dictionary(dict):
    """A dictionary whose attributes, such as a state_dict's `_metadata`, are passed over."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class TorchNamespace(_Dictionary):
    """Settings that were attributes."""

    def __init__(self, once: Callable[[dict], dict]) -> None:
        self.once = once

    def __setstate__(self, state: Any) -> None:
        self.update(self.once(state) if isinstance(state, dict) else {})


class _DType(Inert):
    """What `numpy.dtype(…)` would make."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code if isinstance(code, str) else "", "="

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, str(order), *_):
                self.order = order

    def number(self, data: bytes) -> Any:
        """NumPy's number as Python's; what is none is left aside."""
        if not _NUMBER.fullmatch(self.code) or self.order not in tuple("<>=|"):
            return _Aside()
        whole = np.dtype(self.order + self.code)
        if len(data) != whole.itemsize:
            raise ValueError(BROKEN)
        return np.frombuffer(data, whole)[0].item()


class TorchNames:
    """What the names in one file of PyTorch stand for.

    Attributes:
        sizes: Bytes of storages, by key.
        aside: How many values were left aside, by name.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.aside = Counter[str]()
        self._known: dict[str, Any] = dict(_DTYPES)
        self._copied = 0

    def load(self, stream: io.BytesIO) -> Any:
        """Loads the next of a file's pickles."""
        return load(stream, self._find, self._persistent)

    def _find(self, name: str) -> Any:
        name = name.replace("__builtin__ ", "builtins ")  # Python 2's
        if name not in self._known:
            patterns = (_READ, _ASIDE, _TYPES)
            if name not in _STORAGES and not any(names.fullmatch(name) for names in patterns):
                raise Code(name)
            self._known[name] = stand_in(name, partial(self._call, name))
        return self._known[name]

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a call makes: of tensors and settings what they are, or something left aside.

        What it is given is not copied unseen: many calls may be given the same.
        """
        match name.split()[1], arguments:
            case "_rebuild_from_type_v2", (kind, _, tuple() as own, _):
                inner = name_of(kind)
                if inner is not None and inner != name and _READ.fullmatch(inner):
                    return self._call(inner, *own)
            case "_rebuild_tensor_v3", (_Storage() as at, *rest) if len(rest) > 5:
                return _tensor(at, rest[:3], rest[5])
            case "_rebuild_tensor" | "_rebuild_tensor_v2", (_Storage() as at, *rest):
                return _tensor(at, rest[:3], at.dtype)
            case "_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter", (
                TensorRecord() as tensor,
                *_,
            ):
                return tensor
            case "OrderedDict", (list() as pairs,):
                return _Dictionary(self._hashed(pairs))
            case "Counter" | "defaultdict" | "AttributeDict", (dict() as content, *_):
                return content
            case ("OrderedDict", ()) | ("Counter" | "defaultdict" | "AttributeDict", _):
                return _Dictionary()
            case "Namespace" | "SimpleNamespace", _:
                return TorchNamespace(self._once)
            case "deque", _:
                return arguments[0] if arguments and type(arguments[0]) is list else []
            case "Size", (tuple() | list() as sizes,) if len(sizes) <= _MOST_AXES:
                return tuple(map(_whole, sizes))
            case ("device", (str(text), *_)) | ("TorchVersion", (str(text),)):
                return text
            case "set", (list() as items,):
                return set(self._hashed(items))
            case "complex", (float(real), float(imaginary)):
                return complex(real, imaginary)
            case "encode", (str(text), "latin1"):
                return self._once(text).encode("latin1")
            case "dtype", (code, *_):
                return _DType(code)
            case "scalar", (_DType() as dtype, bytes(data)):
                return dtype.number(data)
        if _ASIDE.fullmatch(name) or name.endswith(" scalar"):
            self.aside[name.replace(" ", ".")] += 1
            return _Aside()
        raise ValueError(f"a call of {name.replace(' ', '.')} as PyTorch makes none")

    def _hashed(self, items: _Items) -> _Items:
        for item in self._once(items):
            if isinstance(item, list | tuple):
                self._hashed(item)
        return items

    def _once(self, items: _Items) -> _Items:
        """Items that a call copies; many calls may be given the same ones."""
        self._copied += len(items)
        if self._copied > MOST_OPERATIONS:
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


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(BROKEN)
    return value


def _tensor(storage: _Storage, steps: list[Any], dtype: Any) -> TensorRecord:
    offset, shape, strides = steps
    numbers = (offset, *shape, *strides)
    if not isinstance(dtype, np.dtype) or not len(shape) == len(strides) <= _MOST_AXES:
        raise ValueError(BROKEN)
    if not all(type(n) is int and 0 <= n < 2**60 for n in numbers):
        raise ValueError(BROKEN)
    return TensorRecord(storage, dtype, offset, tuple(shape), tuple(strides))
