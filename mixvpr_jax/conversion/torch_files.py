"""What `torch.save` wrote, read without PyTorch and without running anything in it.

Since PyTorch 1.6 a file is an uncompressed zip archive: a pickle that describes tensors, and their
bytes. Before, it was a row of pickles with the bytes at its end, as torchvision's older weights
are. (torch/serialization.py, torch/_utils.py of pytorch/pytorch.)
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mixvpr_jax.conversion.pickled_names import Names, TensorRecord
from mixvpr_jax.conversion.restricted_pickle import BROKEN

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what files from before the archives begin with


@dataclass(frozen=True)
class TorchFile:
    """A file that `torch.save` wrote, open for reading."""

    content: Any  # dictionaries, lists, plain values, and a `TensorRecord` for each tensor
    aside: Mapping[str, int]  # how many other values there are, by the names of their types
    sizes: Mapping[str, int]  # bytes of storages, by key
    storage: Callable[[str], memoryview]  # reads that of a key
    num_bytes: int

    def arrays(self, state: Mapping[Any, Any]) -> dict[Any, Any]:
        """A dictionary of the content with arrays in place of its tensors; the rest stays."""

        @cache
        def whole_storage(key: str) -> memoryview:
            found = self.storage(key)
            if len(found) != self.sizes[key]:
                raise ValueError(f"{len(found):,} bytes of {self.sizes[key]:,}")
            return found

        tensors = {name: item for name, item in state.items() if isinstance(item, TensorRecord)}
        taken = sum(math.prod(item.shape) * item.dtype.itemsize for item in tensors.values())
        # Several tensors may share a storage, but a file is no larger inside than outside.
        if taken > 2 * self.num_bytes:
            raise ValueError(f"tensors of {taken:,} bytes in a file of {self.num_bytes:,}")
        return {**state, **{n: t.array(whole_storage(t.storage.key)) for n, t in tensors.items()}}


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Reads what `torch.save` wrote, its tensors only where they are asked for.

    Raises:
        Code: It refers to something that is no tensor and no plain value; that was not executed.
        Exception: Whatever else a broken archive or pickle leads to.
    """
    num_bytes, names = path.stat().st_size, Names()
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if not is_archive:
        content, storages = _read_pickles(path.read_bytes(), names)
        yield TorchFile(content, names.aside, names.sizes, storages.__getitem__, num_bytes)
        return
    with zipfile.ZipFile(path) as archive:
        root = _root(archive, num_bytes)

        def storage(key: str) -> memoryview:
            return memoryview(archive.read(f"{root}data/{key}"))

        content = names.load(io.BytesIO(archive.read(f"{root}data.pkl")))
        yield TorchFile(content, names.aside, names.sizes, storage, num_bytes)


def _root(archive: zipfile.ZipFile, limit: int) -> str:
    entries = archive.infolist()
    names = {entry.filename for entry in entries}
    for end, kind in {"/constants.pkl": "TorchScript", "/archive_format": "torch.export"}.items():
        if any(name.endswith(end) for name in names):  # some of it compressed
            raise ValueError(f"a {kind} archive; save the model's state_dict() instead")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("an archive that is compressed, as none of PyTorch is")
    if any(entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("an archive that is broken")
    if len(names) < len(entries) or sum(entry.file_size for entry in entries) > limit:
        raise ValueError("an archive that holds more than the file")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise ValueError(f"an archive with {len(roots)} data.pkl")
    if f"{roots[0]}byteorder" in names and archive.read(f"{roots[0]}byteorder") != b"little":
        raise ValueError("numbers in the order of another machine")
    return roots[0]


def _read_pickles(file: bytes, names: Names) -> tuple[Any, dict[str, memoryview]]:
    """The content of a file from before the archives, and its storages."""
    stream = io.BytesIO(file)
    if names.load(stream) != _MAGIC or names.load(stream) != _PROTOCOL:
        raise ValueError(BROKEN)
    if names.load(stream).get("little_endian") is not True:
        raise ValueError("numbers in the order of another machine")
    content, keys = names.load(stream), names.load(stream)
    view, place, storages = memoryview(file), stream.tell(), dict[str, memoryview]()
    for key in keys:
        start = place + 8
        number, size = int.from_bytes(view[place:start], "little"), names.sizes[key]
        if size not in [number * itemsize for itemsize in (1, 2, 4, 8, 16)]:
            raise ValueError(f"{number:,} elements where {size:,} bytes are expected")
        place = start + size
        storages[key] = view[start:place]
    return content, storages
