"""Makes ArrayRecord of a data set, for object stores and many hosts.

python -m mixvpr_jax.data.prepare gsv_cities --data-dir GSV_CITIES_FOLDER --output TFDS_FOLDER
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from mixvpr_jax.errors import InputError, run_command, run_words, starting

with starting(__name__):
    import numpy as np
    import tyro
    from etils import epath
    from tqdm import tqdm

    from mixvpr_jax.data.gsv_cities import COLUMNS, Row, read_rows, whole
    from mixvpr_jax.data.sources import (
        CHECKSUMS,
        NAME,
        VERSION,
        FolderSource,
        find_prepared,
        import_tfds,
        open_folder,
    )
    from mixvpr_jax.listing import sizes_in
    from mixvpr_jax.locks import locked
    from mixvpr_jax.storage import as_path, named_when_full

SHARD_BYTES = 256 * 2**20
NO_BEARING = -1  # of a row whose northdeg is blank


@dataclass(frozen=True)
class Prepared:
    """A new data set; `num_skipped` images of its tables were missing."""

    folder: Path
    num_cities: int
    num_places: int
    num_images: int
    num_skipped: int
    sha256: str  # of the list of the files' checksums


def prepare_gsv_cities(
    data_dir: str | Path,
    output: str | Path,
    *,
    cities: Sequence[str] = (),
    skip_missing: bool = False,
    progress: bool = False,
) -> Prepared:
    """Stores GSV-Cities as ArrayRecord, with its tables; resumes an interrupted call.

    The data set goes into `gsv_cities/VERSION` of `output`, a folder on this machine. The options
    are those of `command`; `progress` shows a bar.
    """
    if ":/" in str(output):  # gs://…, or as pathlib writes it
        raise InputError(f"{output}: expected a folder of this machine; copy it up when it is made")
    output = Path(as_path(output))
    _refuse_prepared(output)
    import_tfds()
    source, num_skipped = open_folder(
        epath.Path(as_path(data_dir)), cities, min_images=1, skip_missing=skip_missing
    )
    stored = [read_city(source, index) for index in range(len(source.places.cities))]
    num_bytes = int(sum(city.sizes.sum() for city in stored))
    folder = output / NAME / VERSION
    # What a killed call left serves while rows and sizes, which cut the files, are the same.
    described = repr([(city.name, city.images, city.sizes.tolist()) for city in stored])
    staging = folder.with_name(f".{VERSION}-{crc32(described.encode()):08x}.partial")
    _require_space(output, staging, num_bytes)
    num_images = len(source.places.names)
    with locked(output / NAME, "call that prepares"), named_when_full(output):
        _refuse_prepared(output)
        with tqdm(total=num_images, unit="image", disable=not progress) as bar:
            _write(stored, output, staging, bar.update)
    return Prepared(
        folder,
        len(stored),
        len(source.places),
        num_images,
        num_skipped,
        hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest(),
    )


def _refuse_prepared(output: Path) -> None:
    if find_prepared(epath.Path(output)) is not None:
        raise InputError(f"{output / NAME / VERSION}: prepared already; remove it to make it anew")


def _require_space(output: Path, staging: Path, num_bytes: int) -> None:
    there = sum(path.stat().st_size for path in staging.glob("*"))
    parent = next(path for path in (output, *output.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    if num_bytes - there > free:
        raise InputError(
            f"{output}: expected {(num_bytes - there) / 1e9:.2f} GB of free space, found "
            f"{free / 1e9:.2f} GB"
        )


def _write(
    cities: Sequence[City], output: Path, staging: Path, advance: Callable[[], object]
) -> None:
    """Writes files into `staging` and moves the data set into place once it is complete."""
    from mixvpr_jax.data.tfds_builder import GsvCities

    staging.mkdir(parents=True, exist_ok=True)
    for left in (output / NAME).glob(f"{VERSION}.incomplete*"):
        shutil.rmtree(left)  # of a killed call, whose complete files are in `staging`
    import_tfds().disable_progress_bar()
    builder = GsvCities(
        tables={city.name: city.table() for city in cities},
        shards={
            city.name: [partial(city.examples, rows, advance) for rows in city.shards()]
            for city in cities
        },
        staging=staging,
        data_dir=output,
    )
    with redirect_stdout(io.StringIO()):  # where tfds tells of a download
        builder.download_and_prepare(download_dir=staging / "downloads")
    for other in (output / NAME).iterdir():  # of killed calls for other cities
        if re.fullmatch(rf"\.{re.escape(VERSION)}-[0-9a-f]{{8}}\.partial", other.name):
            shutil.rmtree(other)


@dataclass(frozen=True)
class City:
    """What is stored of a city: its table's rows and their image files, relative to `root`."""

    name: str
    rows: Sequence[Row]
    images: Sequence[str]
    sizes: np.ndarray  # in bytes
    root: epath.Path

    def shards(self) -> list[range]:
        """The rows of each file, of `SHARD_BYTES` or so."""
        shard = np.cumsum(self.sizes) // SHARD_BYTES
        edges = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(self.rows)]
        return [range(*span) for span in pairwise(edges)]

    def table(self) -> Iterator[Sequence[str]]:
        """The rows, each with its image's name where its text tells another."""
        for row, image in zip(self.rows, self.images, strict=True):
            yield *row.cells, "" if image == row.name else image

    def examples(
        self, rows: range, advance: Callable[[], object]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Records by name; images are paths, read where they are written."""
        for index in rows:
            row, image = self.rows[index], self.images[index]
            cells = dict(zip(COLUMNS, row.cells, strict=True))
            yield (
                image,
                {
                    "image": self.root / image,
                    **cells,
                    **{name: whole(cells[name]) for name in COLUMNS[:3]},
                    "northdeg": NO_BEARING if row.northdeg is None else row.northdeg,
                },
            )
            advance()


def read_city(source: FolderSource, index: int) -> City:
    """A city's stored rows, in the table's order, and the sizes of their files."""
    places, name, root = source.places, source.places.cities[index], epath.Path(source.root)
    own = places.images_of(index)
    images = own.start + np.argsort(places.row[own])
    table = list(read_rows(root / "Dataframes" / f"{name}.csv"))
    names = [places.name(image) for image in images.tolist()]
    listed = cache(lambda folder: sizes_in(root / folder))
    split = (name.rpartition("/")[::2] for name in names)
    sizes = np.array([listed(folder)[file] for folder, file in split], np.int64)
    return City(name, [table[row] for row in places.row[images]], names, sizes, root)


def command(
    dataset: tyro.conf.Positional[Literal["gsv_cities"]],
    data_dir: str,
    output: str,
    cities: tuple[str, ...] = (),
    skip_missing: bool = False,
) -> None:
    """Stores a data set as ArrayRecord, for training from object stores and many hosts.

    Args:
        dataset: Which one.
        data_dir: The folder as it is distributed: Dataframes and Images.
        output: Where the prepared data set goes; give it to `mixvpr train` as --data.root.
        cities: Which cities; by default each that has a table.
        skip_missing: Leave out images that are in a table and not there.
    """
    del dataset
    made = prepare_gsv_cities(
        data_dir, output, cities=cities, skip_missing=skip_missing, progress=True
    )
    skipped = f", {made.num_skipped:,} missing images left out" if made.num_skipped else ""
    sys.stdout.write(
        f"{made.folder}: {made.num_cities} cities, {made.num_places:,} places, "
        f"{made.num_images:,} images{skipped}\nsha256 of {CHECKSUMS}: {made.sha256}\n"
    )


if __name__ == "__main__":
    run_command(partial(run_words, command, sys.argv[1:], "python -m mixvpr_jax.data.prepare"))
