"""Arrays out of a pickle, without running anything that the pickle names.

NumPy writes an array of objects as a pickle, and loading a pickle may call any function. Here a
pickle is only walked through: the few operations that NumPy's own arrays consist of are followed,
the few names they refer to become inert values, and all else is refused. Nothing is imported,
called or unpickled, and no memory is taken beyond what the bytes account for.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_VALUES = frozenset({*_NUMBERS, *_TEXTS, *_BYTES})
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_DTYPE = re.compile(r"([biuf][1248]|[US]\d{1,6}|O8?)")
_DEEPEST = 8  # an array of arrays is 2


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


def load_array(pickled: bytes) -> np.ndarray:
    """The array of a pickle that `numpy.save` wrote.

    Raises:
        ValueError: Anything else than that, with what it is.
    """
    stream = io.BytesIO(pickled)
    try:
        array = _finish(_walk(stream), 0, {})
    except (IndexError, KeyError, TypeError, AssertionError) as error:
        raise ValueError("a pickle that is broken") from error
    if stream.tell() != len(pickled):
        raise ValueError(f"{len(pickled) - stream.tell()} bytes after the end of the array")
    if not isinstance(array, np.ndarray):
        raise ValueError("a pickle that holds no array")
    return array


def _walk(stream: io.BytesIO) -> Any:
    """Follows the operations; gives what is left on top at the end."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for operation, argument, _ in pickletools.genops(stream):
        match operation.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "MARK":
                marks.append(len(stack))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[_whole(argument)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[_whole(argument)])
            case "GLOBAL" | "STACK_GLOBAL":
                stack.append(_named(argument or " ".join(reversed((stack.pop(), stack.pop())))))
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name:
                _combine(name, stack, marks)
    return stack.pop()


def _combine(operation: str, stack: list[Any], marks: list[int]) -> None:
    """The operations that make one value of several on the stack."""
    match operation:
        case "EMPTY_LIST":
            stack.append([])
        case "APPEND":
            item = stack.pop()
            _as_list(stack[-1]).append(item)
        case "APPENDS":
            items = _since(marks.pop(), stack)
            _as_list(stack[-1]).extend(items)
        case "TUPLE":
            stack.append(tuple(_since(marks.pop(), stack)))
        case name if name in _TUPLES:
            stack.append(tuple(_since(len(stack) - _TUPLES[name], stack)))
        case "REDUCE":
            arguments = stack.pop()
            stack.append(_make(stack.pop(), *arguments))
        case "BUILD":
            state = stack.pop()
            _complete(stack[-1], state)
        case name:
            raise ValueError(f"a pickle with the operation {name}, which no array needs")


def _since(place: int, stack: list[Any]) -> list[Any]:
    if not 0 <= place <= len(stack):
        raise ValueError("a pickle that is broken")
    items = stack[place:]
    del stack[place:]
    return items


def _as_list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("a pickle that is broken")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("a pickle that is broken")
    return value


def _named(name: Any) -> _Name:
    if name not in _NAMES:
        raise ValueError(f"a pickle that refers to {name!r}")
    return _Name(str(name).split()[1])


def _make(maker: Any, *arguments: Any) -> Any:
    """What a call would make, as an inert value."""
    if not isinstance(maker, _Name):
        raise ValueError("a pickle that calls something")
    match maker.name, arguments:
        case "dtype", (str(code), *_) if _DTYPE.fullmatch(code):
            return _DType(code)
        case "_reconstruct", (_Name("ndarray"), (0,), _):
            return _Array()
        case "scalar", (_DType() as dtype, bytes(data)):
            return _Scalar(dtype, data)
    raise ValueError(f"a pickle that calls numpy's {maker.name} with {arguments!r:.80}")


def _complete(value: Any, state: Any) -> None:
    """What `__setstate__` would set."""
    match value, state:
        case _DType(), (int(), ("<" | ">" | "|" | "=") as order, None, None, None, *_):
            value.order = order
        case _Array(), (int(), tuple(shape), _DType() as dtype, bool(fortran), bytes() | list()):
            if not all(type(size) is int and size >= 0 for size in shape):
                raise ValueError("an array of no possible shape")
            value.shape, value.dtype, value.fortran, value.data = shape, dtype, fortran, state[4]
        case _:
            raise ValueError("a pickle that is broken")


def _finish(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """The value itself, made of what its bytes hold; each array once, however often it is named."""
    if depth > _DEEPEST:
        raise ValueError("arrays nested too deep")
    if id(value) in done:
        return done[id(value)]
    match value:
        case _Array():
            finished = _finish_array(value, depth, done)
        case _Scalar():
            finished = _elements(value.dtype, value.data, 1)[0]
        case list() | tuple():
            finished = [_finish(item, depth + 1, done) for item in value]
        case int() | float() | str() | bytes() | None:
            return value
        case _:
            raise ValueError("a pickle that holds more than arrays")
    done[id(value)] = finished
    return finished


def _finish_array(array: _Array, depth: int, done: dict[int, Any]) -> np.ndarray:
    if array.shape is None:
        raise ValueError("an array without a content")
    count = math.prod(array.shape)
    if isinstance(array.data, bytes):
        flat = _elements(array.dtype, array.data, count)
        return flat.reshape(array.shape, order="F" if array.fortran else "C")
    if not array.dtype.code.startswith("O") or len(array.data) != count:
        raise ValueError(f"{len(array.data)} elements in an array of shape {array.shape}")
    objects = np.empty(count, object)
    for index, item in enumerate(array.data):
        objects[index] = _finish(item, depth + 1, done)
    return objects.reshape(array.shape)  # NumPy lists objects in C order always


def _elements(dtype: _DType, data: bytes, count: int) -> np.ndarray:
    if "O" in dtype.code:
        raise ValueError("objects as bytes")
    whole = np.dtype(dtype.code if dtype.order in "|=" else dtype.order + dtype.code)
    if whole.itemsize == 0 or len(data) != count * whole.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} elements of {whole.itemsize} bytes")
    return np.frombuffer(data, whole)
