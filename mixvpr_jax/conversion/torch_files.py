"""What `torch.save` wrote, read without PyTorch and without running anything in it.

Since PyTorch 1.6 a file is an uncompressed zip archive: a pickle that describes tensors, and their
bytes. Before, it was a row of pickles with the bytes at its end, as torchvision's older weights
are. (torch/serialization.py, torch/_utils.py of pytorch/pytorch.)
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mixvpr_jax.conversion.restricted_pickle import BROKEN
from mixvpr_jax.conversion.torch_values import TensorRecord, TorchNames

Wanted = Callable[[dict], Sequence[Any]]  # of what a file holds, the keys of what is wanted
_Read = Callable[[str], memoryview]  # of a key the bytes of its storage
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what files from before the archives begin with


@dataclass(frozen=True)
class TorchFile:
    """What a file of PyTorch holds.

    Attributes:
        content: Dictionaries, lists and plain values; tensors as arrays where they were asked for,
            else as `TensorRecord`s: a checkpoint's optimizer is not read.
        aside: How many other values there were, by the names of their types.
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
        limit, names = path.stat().st_size, TorchNames()
        root = _root(archive, limit)
        content = names.load(io.BytesIO(archive.read(f"{root}data.pkl")))

        def storage(key: str) -> memoryview:
            return memoryview(archive.read(f"{root}data/{key}"))

        content = _with_arrays(content, wanted, storage, names.sizes, limit)
        return TorchFile(content, names.aside)


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
    stream, names = io.BytesIO(file), TorchNames()
    if names.load(stream) != _MAGIC or names.load(stream) != _PROTOCOL:
        raise ValueError(BROKEN)
    if names.load(stream).get("little_endian") is not True:
        raise ValueError("numbers in the order of another machine")
    content, keys = names.load(stream), names.load(stream)
    view, place, storages = memoryview(file), stream.tell(), dict[str, memoryview]()
    for key in keys:
        start = place + 8  # behind the number of elements
        place = start + names.sizes[key]
        storages[key] = view[start:place]
    content = _with_arrays(content, wanted, storages.__getitem__, names.sizes, len(file))
    return TorchFile(content, names.aside)


def _with_arrays(
    content: Any, wanted: Wanted, storage: _Read, sizes: Mapping[str, int], limit: int
) -> Any:
    @cache
    def whole_storage(key: str) -> memoryview:
        found = storage(key)
        if len(found) != sizes[key]:
            raise ValueError(f"{len(found):,} bytes of {sizes[key]:,}")
        return found

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
    arrays = {name: item.array(whole_storage(item.storage.key)) for name, item in tensors.items()}
    whole = {**state, **arrays}
    for outer, key in zip(reversed(path), reversed(keys), strict=True):
        whole = {**outer, key: whole}
    return whole
