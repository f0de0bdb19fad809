"""The tensorflow-datasets builder `gsv_cities`: JPEG files and their rows into ArrayRecord.

A split a city, records in the order of its table, so that a table's row number finds its record.
Image files are stored byte for byte, and neither writing nor reading needs TensorFlow.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.writer import ExampleWriter

from mixvpr_jax.data.gsv_cities import COLUMNS
from mixvpr_jax.data.prepared import VERSION
from mixvpr_jax.data.records import CHECKSUMS, INTEGERS, TEXTS, City
from mixvpr_jax.errors import InputError


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
