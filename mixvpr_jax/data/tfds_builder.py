"""The tensorflow-datasets builder `gsv_cities`: JPEG files and their rows into ArrayRecord.

Each city is a split; a record's index is its row in the city's table. Image files are stored byte
for byte, and neither writing nor reading needs TensorFlow.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.writer import ExampleWriter

from mixvpr_jax.data.gsv_cities import COLUMNS, IMAGE
from mixvpr_jax.data.sources import CHECKSUMS, VERSION
from mixvpr_jax.errors import InputError


class _Info(tfds.core.DatasetInfo):
    """Skips the lookup in tfds's bucket, which leaves an empty temporary folder behind."""

    def initialize_from_bucket(self) -> None:
        pass


class GsvCities(tfds.core.ShardBasedBuilder):
    """GSV-Cities (Ali-bey et al., 2022), a split per city."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        tables: Mapping[str, Iterable[Sequence[str]]] = {},
        shards: Mapping[str, list[Callable]] = {},
        staging: Path = Path(),
        **options: Any,
    ) -> None:
        """A builder of cities: of the rows of each, COLUMNS and IMAGE, and of its files' records.

        `staging` holds complete files until all are; what a killed call left is reused.
        """
        self.tables, self.shards, self.staging = tables, shards, staging
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        features = {
            "image": image,
            **dict.fromkeys(COLUMNS[:4], np.int64),
            **{name: tfds.features.Text() for name in COLUMNS[4:]},
        }
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description="Places in 23 cities, each seen many times over the years in street view.",
            homepage="https://github.com/amaralibey/gsv-cities",
            license="CC BY-NC-ND 4.0",
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager  # nothing is downloaded
        return dict(self.shards)

    def _download_and_prepare(self, *args: Any, **options: Any) -> None:
        super()._download_and_prepare(*args, **options)
        folder = Path(self.data_path)
        (folder / "Dataframes").mkdir()
        for city, rows in self.tables.items():
            path = folder / "Dataframes" / f"{city}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([(*COLUMNS, IMAGE), *rows])
        written = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in written]
        (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")

    def _example_writer(self) -> ExampleWriter:
        return _StagedWriter(self.info.file_format, self.staging)


class _StagedWriter(ExampleWriter):
    """Writes each file once; a later run reuses those that are complete."""

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
                raise InputError(f"{error}; run the same command to resume") from None
            finally:
                unfinished.unlink(missing_ok=True)
        os.link(staged, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
