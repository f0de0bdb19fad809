"""What `torch.save` wrote, read without PyTorch and without running anything in it.

Since PyTorch 1.6 a file is a zip archive, uncompressed: a pickle that tells of tensors, and their
bytes. Before, it was a row of pickles with the bytes at its end, as torchvision's older weights
are. (torch/serialization.py, torch/_utils.py of pytorch/pytorch.)
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from mixvpr_jax.conversion.pickles import BROKEN, MOST_OPERATIONS, Code, as_key, walk
from mixvpr_jax.conversion.plain_values import Aside, PlainValues

_STORAGES = {
    f"torch {name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "BFloat16": ml_dtypes.bfloat16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
        "Bool": np.bool_,
        "ComplexFloat": np.complex64,
        "ComplexDouble": np.complex128,
    }.items()
}
_STORAGES["torch.storage UntypedStorage"] = np.dtype(np.uint8)
_DTYPES = {f"torch {dtype.name}": dtype for dtype in _STORAGES.values()}
_DTYPES |= {
    f"torch {name}": np.dtype(getattr(module, name))
    for module, names in (
        (np, ("uint16", "uint32", "uint64")),
        (ml_dtypes, ("float8_e4m3fn", "float8_e5m2")),
    )
    for name in names
}
_NAMES = {
    *_STORAGES,
    *(f"torch._utils _rebuild_tensor{version}" for version in ("", "_v2", "_v3")),
    *(f"torch._utils _rebuild_parameter{kind}" for kind in ("", "_with_state")),
    "torch._tensor _rebuild_from_type_v2",
    "torch.nn.parameter Parameter",
    "torch Tensor",
    "torch Size",
    "torch device",
    "collections OrderedDict",
    "builtins set",
    "builtins complex",
    "_codecs encode",  # of bytes
}
Wanted = Callable[[dict], Sequence[Any]]  # of what a file holds, the keys of what is wanted
_Read = Callable[[str], memoryview]  # of a key the bytes of its storage
_Items = TypeVar("_Items", bound=Sequence[Any])
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what files from before the archives begin with
_MOST_AXES = 64  # of NumPy's arrays


@dataclass(frozen=True)
class _Name:
    """What may be referred to; never the thing itself."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """`count` elements from `start` on of what goes by a key."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclass(frozen=True)
class TensorRecord:
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


class _Torch:
    """The vocabulary of a file of PyTorch; see `pickles.Vocabulary`."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}  # bytes by key
        self.plain = PlainValues()
        self.copied = 0  # elements, by calls

    def name(self, name: str) -> Any:
        name = name.replace("__builtin__ ", "builtins ")  # Python 2's
        if name in _DTYPES:
            return _DTYPES[name]
        if name in _NAMES:
            return _Name(name)
        if plain := self.plain.name(name):
            return plain
        raise Code(name)

    def call(self, maker: Any, arguments: tuple) -> Any:
        if isinstance(maker, Aside):
            return self.plain.call(maker, arguments)
        if not isinstance(maker, _Name):
            raise ValueError(BROKEN)
        match maker.name.split()[-1:], arguments:
            case ["_rebuild_from_type_v2"], (_Name() as inner, _Name(), tuple() as own, _):
                if inner != maker:
                    return self.call(inner, own)
            case ["_rebuild_tensor_v3"], (_Storage() as at, *rest) if len(rest) > 5:
                return _tensor(at, rest[:3], rest[5])
            case ["_rebuild_tensor" | "_rebuild_tensor_v2"], (_Storage() as at, *rest):
                return _tensor(at, rest[:3], at.dtype)
            case ["_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter"], (
                TensorRecord() as tensor,
                *_,
            ):
                return tensor
            case ["OrderedDict"], ():
                return {}
            case ["OrderedDict"], (list() as pairs,):
                return {as_key(key): value for key, value in self._once(pairs)}
            case ["Size"], (tuple() | list() as sizes,):
                return tuple(self._once(sizes))
            case ["device"], (str(device), *_):
                return device
            case ["set"], (list() as items,):
                return set(map(as_key, self._once(items)))
            case ["complex"], (float(real), float(imaginary)):
                return complex(real, imaginary)
            case ["encode"], (str(text), "latin1"):
                return self._once(text).encode("latin1")
        raise ValueError(f"a call of {maker.name.replace(' ', '.')} as PyTorch makes none")

    def _once(self, items: _Items) -> _Items:
        """Items that a call copies; many calls may be given the same ones."""
        self.copied += len(items)
        if self.copied > MOST_OPERATIONS:
            raise ValueError(BROKEN)
        return items

    def complete(self, value: Any, state: Any) -> None:
        self.plain.complete(value, state)

    def persistent(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", _Name(kind), str(key), _, int(count), *view) if kind in _STORAGES:
                dtype = _STORAGES[kind]
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
    offset, shape, strides = steps
    numbers = (offset, *shape, *strides)
    if not isinstance(dtype, np.dtype) or not len(shape) == len(strides) <= _MOST_AXES:
        raise ValueError(BROKEN)
    if not all(type(n) is int and 0 <= n < 2**60 for n in numbers):
        raise ValueError(BROKEN)
    return TensorRecord(storage, dtype, offset, tuple(shape), tuple(strides))


@dataclass(frozen=True)
class TorchFile:
    """What a file of PyTorch holds.

    Attributes:
        content: Dictionaries, lists and plain values; tensors as arrays where they were asked for,
            else as `TensorRecord`s: a checkpoint's optimizer is not read.
        aside: How many other values there were, by the names of their types; see `plain_values`.
    """

    content: Any
    aside: Mapping[str, int]


def read_torch_file(path: Path, wanted: Wanted) -> TorchFile:
    """Reads a file that `torch.save` wrote.

    Args:
        path: The file.
        wanted: Gives, of the dictionary that the file holds, the keys that lead to the one whose
            tensors are wanted.

    Raises:
        Code: It refers to something that is no tensor and no plain value; that was not executed.
        Exception: Whatever else a broken archive or pickle leads to.
    """
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    return _read_archive(path, wanted) if archive else _read_pickles(path.read_bytes(), wanted)


def _read_archive(path: Path, wanted: Wanted) -> TorchFile:
    with zipfile.ZipFile(path) as archive:
        limit, vocabulary = path.stat().st_size, _Torch()
        root = _root(archive, limit)
        content = walk(io.BytesIO(archive.read(f"{root}data.pkl")), vocabulary)

        def storage(key: str) -> memoryview:
            return memoryview(archive.read(f"{root}data/{key}"))

        content = _with_arrays(content, wanted, _checked(storage, vocabulary), limit)
        return TorchFile(content, vocabulary.plain.found)


def _root(archive: zipfile.ZipFile, limit: int) -> str:
    """The folder that the entries lie in."""
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("an archive that is compressed, as none of PyTorch is")
    if any(entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("an archive that is broken")
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > limit:
        raise ValueError("an archive that holds more than the file")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"an archive with {len(roots)} data.pkl")
    if f"{roots[0]}constants.pkl" in names:
        raise ValueError("a TorchScript archive; save the model's state_dict() instead")
    if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
        raise ValueError("numbers in the order of another machine")
    return roots[0]


def _read_pickles(file: bytes, wanted: Wanted) -> TorchFile:
    stream, vocabulary = io.BytesIO(file), _Torch()
    if walk(stream, vocabulary) != _MAGIC or walk(stream, vocabulary) != _PROTOCOL:
        raise ValueError(BROKEN)
    if walk(stream, vocabulary).get("little_endian") is not True:
        raise ValueError("numbers in the order of another machine")
    content, keys = walk(stream, vocabulary), walk(stream, vocabulary)
    view, place, storages = memoryview(file), stream.tell(), dict[str, memoryview]()
    for key in keys:
        start = place + 8  # behind the number of elements
        place = start + vocabulary.sizes[key]
        storages[key] = view[start:place]
    content = _with_arrays(content, wanted, _checked(storages.__getitem__, vocabulary), len(file))
    return TorchFile(content, vocabulary.plain.found)


def _checked(storage: _Read, vocabulary: _Torch) -> _Read:
    """Gives storages by their keys, each read once."""
    read = dict[str, memoryview]()

    def get(key: str) -> memoryview:
        if key not in read:
            read[key] = storage(key)
            if len(read[key]) != vocabulary.sizes[key]:
                raise ValueError(f"{len(read[key]):,} bytes of {vocabulary.sizes[key]:,}")
        return read[key]

    return get


def _with_arrays(content: Any, wanted: Wanted, storage: _Read, limit: int) -> Any:
    if not isinstance(content, dict):
        return content
    path = [content]
    keys = wanted(content)
    for key in keys:
        path.append(path[-1][key])
    state = path.pop()
    tensors = {name: item for name, item in state.items() if isinstance(item, TensorRecord)}
    # Several tensors may share a storage, but a file is no larger inside than outside.
    if (taken := sum(tensor.num_bytes for tensor in tensors.values())) > 2 * limit:
        raise ValueError(f"tensors of {taken:,} bytes in a file of {limit:,}")
    arrays = {name: item.array(storage(item.storage.key)) for name, item in tensors.items()}
    whole = {**state, **arrays}
    for outer, key in zip(reversed(path), reversed(keys), strict=True):
        whole = {**outer, key: whole}
    return whole
