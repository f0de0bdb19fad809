"""What a prepared data set stores of GSV-Cities: the rows of a city's table and their images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from etils import epath

from mixvpr_jax.data.gsv_cities import is_blank, read_rows, whole
from mixvpr_jax.data.sources import FolderSource
from mixvpr_jax.listing import sizes_in

SHARD_BYTES = 256 * 2**20
CHECKSUMS = "SHA256SUMS"  # as sha256sum writes and checks it
INTEGERS = ("place_id", "year", "month", "northdeg")
TEXTS = ("city_id", "lat", "lon", "panoid")  # degrees as they print in names
NO_BEARING = -1  # of a row whose northdeg is blank


@dataclass(frozen=True)
class City:
    """What is stored of a city.

    Attributes:
        name: Its table's and its split's.
        rows: Of the table, in order, by column.
        images: The file of each row, below `root`.
        sizes: Their bytes.
        root: The folder that GSV-Cities lies in.
    """

    name: str
    rows: Sequence[Mapping[str, str]]
    images: Sequence[str]
    sizes: np.ndarray
    root: epath.Path

    def shards(self) -> list[range]:
        """Which rows go into which file, of a quarter of a gigabyte each."""
        shard = np.cumsum(self.sizes) // SHARD_BYTES
        edges = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(self.rows)]
        return [range(*span) for span in pairwise(edges)]

    def examples(
        self, rows: range, advance: Callable[[], object]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Records by name; images are paths, read where they are written."""
        for index in rows:
            row = self.rows[index]
            yield (
                self.images[index],
                {
                    "image": self.root / self.images[index],
                    **{name: _integer(row, name) for name in INTEGERS},
                    **{name: row[name] for name in TEXTS},
                },
            )
            advance()


def _integer(row: Mapping[str, str], name: str) -> int:
    return NO_BEARING if name == "northdeg" and is_blank(row[name]) else whole(row[name])


def read_city(source: FolderSource, index: int) -> City:
    """A city's rows that are stored, in the table's order, and the sizes of their files."""
    places, name, root = source.places, source.places.cities[index], epath.Path(source.root)
    own = places.images_of(index)
    images = own.start + np.argsort(places.row[own])
    (_, header), *table = read_rows(root / "Dataframes" / f"{name}.csv")
    rows = [dict(zip(header, table[row][1], strict=False)) for row in places.row[images]]
    names = [places.name(image) for image in images]
    for row, image in zip(rows, names, strict=True):
        if f"_{row['lat']}_{row['lon']}_" not in image:  # it is named by the numbers
            row |= {"lat": str(float(row["lat"])), "lon": str(float(row["lon"]))}
    split = [name.rpartition("/")[::2] for name in names]
    found = {folder: sizes_in(root / folder) for folder in {folder for folder, _ in split}}
    sizes = np.array([found[folder][file] for folder, file in split], np.int64)
    return City(name, rows, names, sizes, root)
