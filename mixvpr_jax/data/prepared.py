"""A prepared data set: where it lies, which version it is, and whether it is whole."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

from mixvpr_jax.data.gsv_cities import Places
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import sizes_in

NAME, VERSION = "gsv_cities", "1.0.0"


def find_prepared(root: epath.Path) -> epath.Path | None:
    """The prepared version in a folder, or the folder itself; None where there is no such."""
    for folder in (root / NAME / VERSION, root / VERSION, root):
        if folder.name == VERSION and (folder / "dataset_info.json").exists():
            return folder
    return None


def refuse_other_versions(root: epath.Path) -> None:
    """Raises InputError where only other versions were prepared; the line names them."""
    if (root / "dataset_info.json").exists():
        raise _other_version(root.parent, [root.name])
    for folder in (root / NAME, root):
        others = [info.parent.name for info in folder.glob("*/dataset_info.json")]
        if others and not (root / "Dataframes").exists():
            raise _other_version(folder, others)


def _other_version(folder: epath.Path, found: list[str]) -> InputError:
    return InputError(
        f"{folder}: expected version {VERSION} of the prepared data set, found "
        f"{', '.join(sorted(found))}; prepare it again (python -m mixvpr_jax.data.prepare)"
    )


def check_shards(root: epath.Path, places: Places) -> None:
    """Sees that the files of each city are there, as large as they were made.

    Raises:
        InputError: Some are not; tensorflow-datasets is not installed.
    """
    import_tfds()
    path = root / "dataset_info.json"
    try:
        splits = {split["name"]: split for split in json.loads(path.read_text())["splits"]}
        records = {name: sum(map(int, split["shardLengths"])) for name, split in splits.items()}
        num_bytes = {name: int(split["numBytes"]) for name, split in splits.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what tfds writes, found {error!r}") from None
    sizes = sizes_in(root)
    for index, city in enumerate(places.cities):
        num_rows = int(places.row[places.images_of(index)].max()) + 1
        if num_rows > records.get(city, 0):
            found = f"{records.get(city, 0):,} in {path.name}"
            raise InputError(f"{root}: expected {num_rows:,} records of {city}, found {found}")
        count = len(splits[city]["shardLengths"])
        stem = f"{NAME}-{city}.array_record"
        files = [f"{stem}-{shard:05d}-of-{count:05d}" for shard in range(count)]
        if missing := [name for name in files if name not in sizes]:
            raise _not_whole(root, f"{count} files of {city}", f"no {', '.join(missing)}")
        if (there := sum(sizes[name] for name in files)) != num_bytes[city]:
            raise _not_whole(root, f"{num_bytes[city]:,} bytes of {city}", f"{there:,}")


def _not_whole(root: epath.Path, expected: str, found: str) -> InputError:
    return InputError(
        f"{root}: expected {expected}, found {found}; copy it again (sha256sum --check SHA256SUMS "
        "names what is broken)"
    )


def import_tfds() -> Any:
    """tensorflow-datasets, which only prepared data sets need.

    Raises:
        InputError: It is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"prepared data sets: expected tensorflow-datasets, found {error}; "
            "pip install 'mixvpr-jax[tfds]'"
        ) from None
    return tensorflow_datasets
