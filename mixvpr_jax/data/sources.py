"""Training images, from a folder or the ArrayRecord made of it, and the sampler of steps."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mixvpr_jax.data.augmentation import draw_operations
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.gsv_cities import Places, Row, in_bytes, read_places, require_each_city
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.listing import IMAGE_SUFFIXES, Fence, composed, links_in, names_in, sizes_in

NAME, VERSION, INFO = "gsv_cities", "1.0.0", "dataset_info.json"
AUGMENTATION = 1905  # sets the draws of augmentation apart from those of the order
CHECKSUMS = "SHA256SUMS"  # as sha256sum writes and checks it

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files of GSV-Cities as distributed, in a folder or an object store."""

    root: str
    places: Places

    def read(self, image: int) -> bytes:
        """An image's file."""
        return epath.Path(self.root, self.places.name(image)).read_bytes()


@dataclass(frozen=True, eq=False)
class PreparedSource:
    """The same files, from the ArrayRecord of a prepared version's folder."""

    root: str
    places: Places

    def read(self, image: int) -> bytes:
        """An image's file."""
        place = np.searchsorted(self.places.bounds, image, side="right") - 1
        city = self.places.cities[self.places.city[place]]
        try:
            return _records(self.root, city)[int(self.places.row[image])]["image"]
        except RuntimeError as error:  # of the reader: a damaged block
            raise InputError(
                f"{self.root}: expected whole records of {city}, found a damaged one ({error}); "
                "sha256sum --check SHA256SUMS tells which file"
            ) from None


@cache
def _records(root: str, city: str) -> Any:
    """A city's records, whose files each process opens once."""
    tfds = import_tfds()
    split = tfds.core.ReadInstruction(city)  # takes a name as it is; a text "a+b" would be two
    decoders = {"image": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(root).as_data_source(split, decoders=decoders)


Source = FolderSource | PreparedSource


def open_source(config: DataConfig) -> Source:
    """The images that a configuration names."""
    root, least = epath.Path(config.folder), config.min_images_per_place
    if (prepared := find_prepared(root)) is not None:
        source = PreparedSource(
            str(prepared), read_places(prepared, config.cities, min_images=least)
        )
        _check_shards(prepared, source.places)
    else:
        _refuse_other_versions(root)
        source, num_skipped = open_folder(
            root, config.cities, min_images=least, skip_missing=config.skip_missing
        )
        if num_skipped:
            logger.warning("note: %s: %d missing images left out", root, num_skipped)
    if (found := len(source.places)) < 2:
        raise InputError(
            f"{config.folder}: expected 2 places or more, found {found}: there are no negatives; "
            "add to data.cities, or lower data.min-images-per-place"
        )
    if found < config.places_per_batch:
        logger.warning(
            "note: %s: %d places, fewer than a batch of data.places-per-batch %d",
            *(root, found, config.places_per_batch),
        )
    elif found % config.places_per_batch == 1:
        logger.warning(
            "note: %s: the last batch of each epoch holds one place and no negatives: its loss and "
            "batch_accuracy say nothing; another --data.places-per-batch than %d avoids it",
            *(root, config.places_per_batch),
        )
    return source


def open_folder(
    root: epath.Path, cities: Sequence[str], *, min_images: int, skip_missing: bool
) -> tuple[FolderSource, int]:
    """GSV-Cities' folder, and how many missing images of its tables were left out.

    Unless `skip_missing`, these are an InputError whose `details` list all.
    """
    files = _Files(root)
    places = read_places(root, cities, min_images=min_images, naming=files.names)
    present = files.present(places)
    num_missing = int((~present).sum())
    if num_missing:
        names = [name.decode() for name in places.names[~present]]
        if num_missing == len(present):
            raise InputError(f"{root}: expected images such as {names[0]}, found none of them")
        if not skip_missing:
            raise InputError(
                f"{root}: expected {len(present)} images, found {num_missing} missing, the first "
                f"{names[0]}; skip-missing does without them",
                details=[f"missing: {name}" for name in names],
            )
        places = places.keep_images(present, min_images)
        require_each_city(root, places, min_images)
    return FolderSource(str(root), places), num_missing


class _Files:
    """Which images of a data set's tables exist, and under which of their names."""

    def __init__(self, root: epath.Path) -> None:
        self.root = root
        self.absent: set[bytes] = set()
        self.links: set[bytes] = set()

    def names(self, rows: Iterable[Row]) -> list[str]:
        """The names of a table's images, each the first of its row's under which it exists.

        Each folder is listed once. A missing image gets the form of name that the renamed one
        before it has, or else keeps that of the text.
        """
        listed = cache(self._spelled)  # for this table alone: a name takes 300 bytes
        names, form = list[str](), 0
        for row in rows:
            there = listed(row.cells[4])
            if (name := there.get(row.name)) is None:
                possible = list(row.names())
                found = [there.get(other) or there.get(composed(other)) for other in possible]
                form = next((index for index, other in enumerate(found) if other), form)
                if (name := found[form]) is None:
                    name = possible[form]
                    self.absent.add(in_bytes(name))
            names.append(name)
        return names

    def _spelled(self, city: str) -> dict[str, str]:
        """The names in a city's folder, by themselves, composed and with the tables' `.jpg`."""
        same = [city]
        if not city.isascii():
            others = names_in(self.root / "Images", "directory")
            same += [
                other for other in others if other != city and composed(other) == composed(city)
            ]
        there: dict[str, str] = {}
        for folder in (f"Images/{name}" for name in same):
            links = {
                f"{folder}/{n}": is_link for n, is_link in links_in(self.root / folder).items()
            }
            parts = (n.rpartition(".") for n in sorted(links) if not n.endswith(".jpg"))
            of_images = (each for each in parts if f".{each[2].lower()}" in IMAGE_SUFFIXES)
            as_jpg = {composed(f"{stem}.jpg"): f"{stem}.{end}" for stem, _, end in of_images}
            there = as_jpg | {composed(n): n for n in links} | {n: n for n in links} | there
            self.links.update(in_bytes(name) for name, is_link in links.items() if is_link)
        return there

    def present(self, places: Places) -> np.ndarray:
        """[images] whether their files are there; refuses links that lead outside."""
        fence = Fence([Path(self.root), Path(self.root, "Images")], self.root)
        for name in places.names.tolist() if self.links else ():
            if name in self.links:
                fence.require(Path(self.root, name.decode()))
        if not self.absent:
            return np.ones(len(places.names), bool)
        return np.array([name not in self.absent for name in places.names.tolist()])


def find_prepared(root: epath.Path) -> epath.Path | None:
    """The folder of the prepared version, in a folder or the folder itself."""
    for folder in (root / NAME / VERSION, root / VERSION, root):
        if folder.name == VERSION and (folder / INFO).exists():
            return folder
    return None


def _refuse_other_versions(root: epath.Path) -> None:
    folders = () if (root / "Dataframes").exists() else (root / NAME, root)
    beside = (folder / name for folder in folders for name in names_in(folder, "directory"))
    if others := [folder for folder in (root, *beside) if (folder / INFO).exists()]:
        raise InputError(
            f"{others[0].parent}: expected version {VERSION} of the prepared data set, found "
            f"{', '.join(sorted(other.name for other in others))}; prepare it again "
            "(python -m mixvpr_jax.data.prepare gsv_cities --data-dir GSV_CITIES_FOLDER "
            "--output TFDS_FOLDER)"
        )


def _check_shards(root: epath.Path, places: Places) -> None:
    """Checks that each city's files are there, in full size."""
    import_tfds()
    path = root / INFO
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        splits = {split["name"]: split for split in found["splits"]}
        records = {name: sum(map(int, split["shardLengths"])) for name, split in splits.items()}
        num_bytes = {name: int(split["numBytes"]) for name, split in splits.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what tfds writes, found {error!r}") from None
    sizes = sizes_in(root)
    listed = (root / CHECKSUMS).read_text(encoding="utf-8") if CHECKSUMS in sizes else ""
    for index, city in enumerate(places.cities):
        file = root / (table := f"Dataframes/{city}.csv")
        num_rows = int(places.row[places.images_of(index)].max()) + 1
        if num_rows > records.get(city, 0):
            found = f"{records.get(city, 0):,} in {path.name}"
            raise InputError(f"{root}: expected {num_rows:,} records of {city}, found {found}")
        count = len(splits[city]["shardLengths"])
        stem = f"{NAME}-{city}.array_record"
        files = [f"{stem}-{shard:05d}-of-{count:05d}" for shard in range(count)]
        there = sum(sizes.get(name, 0) for name in files)
        if missing := [name for name in files if name not in sizes]:
            wrong = f"{count} files of {city}, found no {', '.join(missing)}"
        elif there != num_bytes[city]:
            wrong = f"{num_bytes[city]:,} bytes of {city}, found {there:,}"
        elif listed and f"{sha256(file.read_bytes()).hexdigest()}  {table}\n" not in listed:
            # A record's number is its row.
            wrong = f"{table} as it was prepared, found another (leave out rows before preparing)"
        else:
            continue
        raise InputError(
            f"{root}: expected {wrong}; copy it again (in it, sha256sum --check {CHECKSUMS} "
            "names the broken files)"
        )


def import_tfds() -> Any:
    """tensorflow-datasets, which only prepared data sets need."""
    with extra("tfds", "prepared data sets: expected tensorflow-datasets"):
        import tensorflow_datasets
    return tensorflow_datasets


@dataclass(frozen=True, eq=False)
class Sampler:
    """Batches of P places x K images, cut from an epoch's places; the last one may be short.

    In the official order nearly every batch is of one city, so its negatives are hard. A step's
    images are a pure function of `seed` and step.
    """

    places: Places
    config: DataConfig
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the last short one included."""
        return math.ceil(len(self.places) / self.config.places_per_batch)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of a step, counted from the first of all, and their labels.

        Returns:
            [n] indices of images, K of each place together, and [n] their places' indices.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        images, labels = self.epoch(epoch)
        part = slice(index * self.config.batch_size, (index + 1) * self.config.batch_size)
        return images[part], labels[part]

    def operations(self, step: int, num_images: int) -> np.ndarray:
        """The augmentations of a step's images: int8 [n, num_ops], see `draw_operations`."""
        rng = np.random.default_rng([self.seed, step, AUGMENTATION])
        return draw_operations(rng, num_images, self.config.augmentation.num_ops)

    @lru_cache(2)  # noqa: B019 (batches ahead may be of the next epoch; a run has one sampler)
    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """All images of an epoch, in order, and their labels; see `batch`."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self._order(rng)
        images = self._chosen(rng)[order]
        return images.ravel(), np.repeat(order, images.shape[1]).astype(np.int32)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """[places] in an epoch's order."""
        if self.config.order == "shuffled":
            return rng.permutation(len(self.places))
        cities = np.unique(self.places.city)
        if self.config.shuffle_cities:
            cities = rng.permutation(cities)
        of_each = [np.flatnonzero(self.places.city == city) for city in cities]
        return np.concatenate([rng.permutation(places) for places in of_each])

    def _chosen(self, rng: np.random.Generator) -> np.ndarray:
        """[places, K] images of each place."""
        places, count = self.places, self.config.images_per_place
        keys = places.age if self.config.images == "recent" else rng.random(len(places.names))
        by_place = np.lexsort((keys, np.repeat(np.arange(len(places)), places.counts)))
        return by_place[places.bounds[:-1, None] + np.arange(count)]
