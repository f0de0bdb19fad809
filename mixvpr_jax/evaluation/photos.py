"""Descriptors of photos in one file: `.npy` with the names beside, or `.h5` as hloc writes it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mixvpr_jax.checks import nearest
from mixvpr_jax.datasets.folders import list_images, read_list
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.evaluation.describe import Described
from mixvpr_jax.evaluation.describer import Describer, open_model
from mixvpr_jax.listing import write_array
from mixvpr_jax.storage import AnyPath, atomic_write, reaching, resolved
from mixvpr_jax.writable import require_free


def describe_photos(photos: AnyPath, output: AnyPath, config: DescribeConfig) -> Described:
    """Describes photos and writes their descriptors.

    Args:
        photos: A folder, searched at any depth; a photo; or a list, a .txt with a name a line.
        output: FILE.npy holds [n, d], FILE.txt beside it n names relative to the folder, a line
            each; FILE.h5 a group a name with its `global_descriptor` [d], as hloc writes it.
        config: The model, and how it describes.

    Raises:
        InputError: Whatever is wrong with photos, model or output. Nothing is written then.
    """
    files = files_of(output)
    require_free(files, "the descriptors", overwrite=config.overwrite, sources=[photos])
    folder, paths = find_photos(photos)
    names = [path.relative_to(folder).as_posix() for path in paths]
    if strange := next((name for name in names if len(name.splitlines()) != 1), None):
        raise InputError(f"{folder}: expected names of one line, found {strange!r}; rename it")
    model, preprocess = open_model(config)
    with ExitStack() as stack:  # opened first: hours of work need a place to go
        # The last is named first: descriptors never lie beside names of others, whatever ends it.
        temporary = [stack.enter_context(atomic_write(file)) for file in files]
        describer = Describer(config, model, preprocess, temporary[0].parent)
        [found] = describer.describe({str(photos): paths})
        described = [name for name, there in zip(names, found.readable, strict=True) if there]
        if len(files) == 1:
            write_hloc(temporary[0], described, found.descriptors)
        else:
            write_array(temporary[0], found.descriptors)
            lines = "".join(f"{name}\n" for name in described)
            temporary[1].write_text(lines, encoding="utf-8", errors="surrogateescape")
        # Again: another process may have written the same files meanwhile.
        require_free(files, "the descriptors", overwrite=config.overwrite, sources=[photos])
        if len(files) > 1:
            with reaching(output):
                output.unlink(missing_ok=True)
    describer.prune()
    return found


def files_of(output: AnyPath) -> list[AnyPath]:
    """What is written for an output; raises InputError for another ending than .npy and .h5."""
    if output.suffix == ".npy":
        return [output, output.with_suffix(".txt")]
    if output.suffix != ".h5":
        raise InputError(f"output: expected FILE.npy or FILE.h5, found {output}")
    with extra("hloc", f"{output}: expected h5py"):
        import h5py  # noqa: F401 (told before hours of work)
    return [output]


def find_photos(photos: AnyPath) -> tuple[AnyPath, tuple[AnyPath, ...]]:
    """The folder that names are relative to, and the photos, each once."""
    with reaching(photos):
        is_folder, there = photos.is_dir(), photos.exists()
    if is_folder:
        paths = list_images(photos)
        inside = all(path.is_relative_to(photos) for path in paths)
        return photos if inside else resolved(photos), paths
    if not there:
        raise InputError(
            f"{photos}: expected a folder of photos, a photo, or a list of photos (.txt), found no "
            f"such file{nearest(photos)}"
        )
    if photos.suffix.lower() == ".txt":
        return photos.parent, read_list(photos, photos.parent, [photos.parent])
    if photos.suffix.lower() in (".csv", ".tsv", ".json", ".lst", ".list"):
        raise InputError(f"{photos}: expected a .txt list, one name per line, found another file")
    return photos.parent, (photos,)


class _Held(io.FileIO):
    """A file that keeps its first write error; raised within HDF5, it would crash the process."""

    error: OSError | None = None

    @contextmanager
    def _holding(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error

    def write(self, data: Any, /) -> int:
        with self._holding():
            if (written := super().write(data)) < len(data):  # the disk got full: fails now
                super().write(data[written:])
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        with self._holding():
            super().truncate(size)
        return size or 0


def write_hloc(file: Path, names: list[str], descriptors: np.ndarray) -> None:
    """Writes a group a name that holds the dataset `global_descriptor`."""
    import h5py

    with _Held(file, "w+") as held:
        with h5py.File(held, "w") as groups:
            for name, descriptor in zip(names, descriptors, strict=True):
                if held.error is None:
                    group = groups.create_group(name.encode("utf-8", "surrogateescape"))
                    group.create_dataset("global_descriptor", data=descriptor)
        if held.error is not None:
            raise held.error
