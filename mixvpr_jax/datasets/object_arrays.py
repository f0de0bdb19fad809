"""Files of NumPy (.npy) from strangers: arrays of numbers, text and arrays, and nothing else.

`numpy.load(allow_pickle=True)` runs any function that an array of objects names. Here such a pickle
is loaded by `restricted_pickle`, with the few names that NumPy's own arrays consist of.
"""

from __future__ import annotations

import io
import math
import re
import sys
import tokenize
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from mixvpr_jax.conversion.restricted_pickle import BROKEN, DType, Inert, load, name_of, stand_in
from mixvpr_jax.errors import InputError, what_else
from mixvpr_jax.storage import AnyPath

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_KINDS = "biufUS"
_NAMES = re.compile(r"numpy (ndarray|dtype)|numpy\._?core\.multiarray (_reconstruct|scalar)")
_DTYPE = re.compile(r"([biuf][1248]|[US]\d{1,6}|O8?)")
_DEEPEST = 8  # an array of arrays is 2
_GROWTH = 16  # bytes in memory to a byte of the file: a list of one-digit numbers takes some 12


def read_array(path: AnyPath) -> np.ndarray:
    """Reads an array, of objects too, without executing what the file says.

    What the header promises is checked against the file's size before any memory is taken for it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: expected a NumPy array (.npy), {reason}") from None
    try:
        return _parse(content)
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: expected a NumPy array (.npy), found {reason}") from None


def _parse(content: bytes) -> np.ndarray:
    if not content.startswith(npy.MAGIC_PREFIX):
        raise ValueError(what_else(content[:512]) or "something else")
    stream = io.BytesIO(content)
    shape, fortran, dtype = _header(stream)
    if dtype.kind == "O":
        array = _load_array(stream, len(content) - stream.tell())
        if array.dtype != object or array.shape != shape:
            raise ValueError(f"shape {array.shape} where the header says {shape}")
        return array
    body = content[stream.tell() :]
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"elements of type {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if len(body) != expected:
        raise ValueError(f"{len(body):,} bytes where shape {shape} of {dtype} takes {expected:,}")
    return _elements(body, dtype).reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    try:
        shape, fortran, dtype = _HEADERS[version](stream)
    except (SyntaxError, TypeError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise ValueError("a header that is broken") from error
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape {shape}")
    return shape, fortran, dtype


def _elements(data: bytes, dtype: np.dtype) -> np.ndarray:
    """[n] the elements in bytes; NumPy would notice what are no characters only when shown."""
    if dtype.kind == "U":
        codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError("text that is none")
    return np.frombuffer(data, dtype)


# Arrays of objects --------------------------------------------------------------------------------


@dataclass
class _Array(Inert):
    """What `_reconstruct` begins; the state follows, or never comes."""

    shape: tuple[int, ...] | None = None
    dtype: DType | None = None
    fortran: bool = False
    data: Any = None

    def __setstate__(self, state: Any) -> None:
        match state:
            case int(), tuple(shape), DType() as dtype, bool(fortran), bytes() | list() as data:
                if not all(type(size) is int and size >= 0 for size in shape):
                    raise ValueError("an array of no possible shape")
                self.shape, self.dtype, self.fortran, self.data = shape, dtype, fortran, data
            case _:
                raise ValueError(BROKEN)


@dataclass
class _Scalar(Inert):
    dtype: DType
    data: bytes


@cache
def _find(name: str) -> type[Inert]:
    if not _NAMES.fullmatch(name):
        raise ValueError(f"a pickle that refers to {name!r}")
    return stand_in(name, partial(_call, name.split()[1]))


def _call(name: str, *arguments: Any) -> Inert:
    match name, arguments:
        case "dtype", (str(code), *_) if _DTYPE.fullmatch(code):
            return DType(code)
        case "_reconstruct", (kind, (0,), _) if name_of(kind) == "numpy ndarray":
            return _Array()
        case "scalar", (DType() as dtype, bytes(data)):
            return _Scalar(dtype, data)
    raise ValueError(f"a pickle that calls numpy's {name} as NumPy does not")


def _load_array(stream: io.BytesIO, num_bytes: int) -> np.ndarray:
    """The array of the pickle that begins here and takes the rest of the file."""
    begun = load(stream, _find)
    if left := len(stream.read()):
        raise ValueError(f"{left} bytes after the end of the array")
    try:
        array = _Finish(num_bytes).value(begun)
    except (TypeError, OverflowError) as error:
        raise ValueError(BROKEN) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("a pickle that holds no array")
    return array


class _Finish:
    """Replaces the stand-ins in a pickle of `num_bytes` by the values that they stand for.

    An array that is named many times is built once, anything else anew each time. So the bytes
    built are counted, lest a small file fill the memory.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.left = _GROWTH * num_bytes + 2**16
        self.done: dict[int, np.ndarray] = {}

    def value(self, value: Any, depth: int = 0) -> Any:
        """The value itself, made of what its bytes hold."""
        if depth > _DEEPEST:
            raise ValueError("arrays nested too deep")
        self._take(8)
        match value:
            case _Array():
                if id(value) not in self.done:
                    self.done[id(value)] = self._array(value, depth)
                elif depth > 1:  # within a list, which may become an array of its own
                    self._take(self.done[id(value)].nbytes)
                return self.done[id(value)]
            case _Scalar():
                return self._flat(value.dtype, value.data, 1)[0]
            case list() | tuple():
                return [self.value(item, depth + 1) for item in value]
            case int() | float() | str() | bytes() | None:
                return value
        raise ValueError("a pickle that holds more than arrays")

    def _array(self, array: _Array, depth: int) -> np.ndarray:
        if array.shape is None or array.dtype is None:
            raise ValueError("an array without a content")
        count = math.prod(array.shape)
        if isinstance(array.data, bytes):
            flat = self._flat(array.dtype, array.data, count)
            return flat.reshape(array.shape, order="F" if array.fortran else "C")
        if not array.dtype.code.startswith("O") or len(array.data) != count:
            raise ValueError(f"{len(array.data)} elements in an array of shape {array.shape}")
        objects = np.empty(count, object)
        for index, item in enumerate(array.data):
            objects[index] = self.value(item, depth + 1)
        return objects.reshape(array.shape)  # NumPy lists objects in C order always

    def _flat(self, dtype: DType, data: bytes, count: int) -> np.ndarray:
        if "O" in dtype.code:
            raise ValueError("objects as bytes")
        whole = dtype.to_numpy()
        if whole.itemsize == 0 or len(data) != count * whole.itemsize:
            raise ValueError(f"{len(data)} bytes for {count} elements of {whole.itemsize} bytes")
        self._take(len(data))
        return _elements(data, whole)

    def _take(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left < 0:
            raise ValueError(f"more than {_GROWTH} times its own {self.num_bytes:,} bytes")
