"""Arrays out of a pickle that NumPy wrote, without running anything that the pickle names.

NumPy writes an array of objects as a pickle. `pickles.walk` follows it; here are the few names that
NumPy's own arrays consist of, and what becomes of them.
"""

from __future__ import annotations

import io
import math
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixvpr_jax.conversion.pickles import BROKEN, walk

_NAMES = {
    f"{module} {name}"
    for module, name in (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),  # NumPy 2
        ("numpy._core.multiarray", "scalar"),
    )
}
_DTYPE = re.compile(r"([biuf][1248]|[US]\d{1,6}|O8?)")
_DEEPEST = 8  # an array of arrays is 2
_GROWTH = 16  # bytes in memory to a byte of the file: a list of one-digit numbers takes some 12


@dataclass
class _Name:
    """One of the names above; never the thing itself."""

    name: str


@dataclass
class _DType:
    """What `numpy.dtype(…)` would make."""

    code: str
    order: str = "|"


@dataclass
class _Array:
    """What `_reconstruct` would begin; the state follows, or never comes."""

    shape: tuple[int, ...] | None = None
    dtype: _DType = field(default_factory=lambda: _DType("O"))
    fortran: bool = False
    data: Any = None


@dataclass
class _Scalar:
    """One element, as bytes."""

    dtype: _DType
    data: bytes


class _NumPy:
    """The vocabulary of NumPy's arrays; see `pickles.Vocabulary`."""

    def name(self, name: str) -> _Name:
        if name not in _NAMES:
            raise ValueError(f"a pickle that refers to {name!r}")
        return _Name(name.split()[1])

    def call(self, maker: Any, arguments: tuple) -> Any:
        if not isinstance(maker, _Name):
            raise ValueError("a pickle that calls something")
        match maker.name, arguments:
            case "dtype", (str(code), *_) if _DTYPE.fullmatch(code):
                return _DType(code)
            case "_reconstruct", (_Name("ndarray"), (0,), _):
                return _Array()
            case "scalar", (_DType() as dtype, bytes(data)):
                return _Scalar(dtype, data)
        raise ValueError(f"a pickle that calls numpy's {maker.name} as NumPy does not")

    def complete(self, value: Any, state: Any) -> None:
        match value, state:
            case _DType(), (int(), ("<" | ">" | "|" | "=") as order, None, None, None, *_):
                value.order = order
            case _Array(), (
                int(),
                tuple(shape),
                _DType() as dtype,
                bool(fortran),
                bytes() | list(),
            ):
                if not all(type(size) is int and size >= 0 for size in shape):
                    raise ValueError("an array of no possible shape")
                value.shape, value.dtype, value.fortran, value.data = (
                    shape,
                    dtype,
                    fortran,
                    state[4],
                )
            case _:
                raise ValueError(BROKEN)

    def persistent(self, identity: Any) -> Any:
        raise ValueError("a pickle that refers to another file")


def load_array(pickled: bytes) -> np.ndarray:
    """The array of a pickle that `numpy.save` wrote.

    Raises:
        ValueError: Anything else than that, with what it is.
    """
    stream = io.BytesIO(pickled)
    begun = walk(stream, _NumPy())
    if stream.tell() != len(pickled):
        raise ValueError(f"{len(pickled) - stream.tell()} bytes after the end of the array")
    try:
        array = _Finish(len(pickled)).value(begun)
    except (TypeError, OverflowError) as error:
        raise ValueError(BROKEN) from error
    if not isinstance(array, np.ndarray):
        raise ValueError("a pickle that holds no array")
    return array


def elements(data: bytes, dtype: np.dtype) -> np.ndarray:
    """[n] what bytes hold.

    Raises:
        ValueError: Text of what are no characters, which NumPy would notice when it is looked at.
    """
    if dtype.kind == "U":
        codes = np.frombuffer(data, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError("text that is none")
    return np.frombuffer(data, dtype)


class _Finish:
    """Makes of each stand-in what it stands for.

    An array may be named many times, and is made once. Whatever else is named many times, or
    shares its bytes, is made anew each time: so what is made is counted, lest a small file fill
    the memory.
    """

    def __init__(self, num_bytes: int) -> None:
        """Of a pickle of so many bytes."""
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
                return self._elements(value.dtype, value.data, 1)[0]
            case list() | tuple():
                return [self.value(item, depth + 1) for item in value]
            case int() | float() | str() | bytes() | None:
                return value
        raise ValueError("a pickle that holds more than arrays")

    def _array(self, array: _Array, depth: int) -> np.ndarray:
        if array.shape is None:
            raise ValueError("an array without a content")
        count = math.prod(array.shape)
        if isinstance(array.data, bytes):
            flat = self._elements(array.dtype, array.data, count)
            return flat.reshape(array.shape, order="F" if array.fortran else "C")
        if not array.dtype.code.startswith("O") or len(array.data) != count:
            raise ValueError(f"{len(array.data)} elements in an array of shape {array.shape}")
        objects = np.empty(count, object)
        for index, item in enumerate(array.data):
            objects[index] = self.value(item, depth + 1)
        return objects.reshape(array.shape)  # NumPy lists objects in C order always

    def _elements(self, dtype: _DType, data: bytes, count: int) -> np.ndarray:
        if "O" in dtype.code:
            raise ValueError("objects as bytes")
        whole = np.dtype(dtype.code if dtype.order in "|=" else dtype.order + dtype.code)
        if whole.itemsize == 0 or len(data) != count * whole.itemsize:
            raise ValueError(f"{len(data)} bytes for {count} elements of {whole.itemsize} bytes")
        self._take(len(data))
        return elements(data, whole)

    def _take(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left < 0:
            raise ValueError(f"more than {_GROWTH} times its own {self.num_bytes:,} bytes")
