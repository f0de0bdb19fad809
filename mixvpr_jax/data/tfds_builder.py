"""The tensorflow-datasets builder `gsv_cities`: JPEG files and their rows into ArrayRecord.

A split a city, records in the order of its table, so that a table's row number finds its record.
Image files are stored byte for byte, and neither writing nor reading needs TensorFlow.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.writer import ExampleWriter

from mixvpr_jax.data.gsv_cities import COLUMNS, is_blank, read_rows, whole
from mixvpr_jax.data.prepared import VERSION
from mixvpr_jax.data.sources import FolderSource
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import sizes_in


class GsvCities(tfds.core.ShardBasedBuilder):
    """GSV-Cities (Ali-bey et al., 2022), a split a city."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        cities: Sequence[City] = (),
        staging: Path = Path(),
        advance: Callable[[], object] = lambda: None,
        **options: Any,
    ) -> None:
        """A builder of these cities.

        Args:
            cities: What is stored.
            staging: Where files lie until all of them are whole; those there already are kept.
            advance: Called after each record.
            options: Of the base class.
        """
        self.cities, self.staging, self.advance = cities, staging, advance
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        features = {
            "image": image,
            **dict.fromkeys(INTEGERS, np.int64),
            **{name: tfds.features.Text() for name in TEXTS},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description="Places in 23 cities, each seen many times over the years in street view.",
            homepage="https://github.com/amaralibey/gsv-cities",
            license="CC BY-NC-ND 4.0",
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return {
            city.name: [partial(city.examples, rows, self.advance) for rows in city.shards()]
            for city in self.cities
        }

    def _download_and_prepare(self, *args: Any, **options: Any) -> None:
        super()._download_and_prepare(*args, **options)
        folder = Path(self.data_path)
        (folder / "Dataframes").mkdir()
        for city in self.cities:
            path = folder / "Dataframes" / f"{city.name}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(
                    file, list[str](COLUMNS), extrasaction="ignore", lineterminator="\n"
                )
                table.writeheader()
                table.writerows(city.rows)
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in written]
        (folder / CHECKSUMS).write_text("".join(lines))

    def _example_writer(self) -> ExampleWriter:
        return _StagedWriter(self.info.file_format, self.staging)


class _StagedWriter(ExampleWriter):
    """Writes each file once, however often it is asked to: the rest of a broken off run."""

    def __init__(self, file_format: Any, staging: Path) -> None:
        super().__init__(file_format)
        self.staging = staging

    def write(self, path: epath.PathLike, examples: Iterable[Any]) -> None:
        staged = self.staging / Path(path).name
        if not staged.exists():
            unfinished = self.staging / f".{staged.name}"
            try:
                super().write(unfinished, examples)
                unfinished.rename(staged)
            except RuntimeError as error:  # what ArrayRecord makes of a disk that fails
                raise InputError(f"{error}; the same command goes on from here") from None
            finally:
                unfinished.unlink(missing_ok=True)
        os.link(staged, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
