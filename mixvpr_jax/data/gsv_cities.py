"""GSV-Cities as it lies on disk: `Dataframes/<City>.csv` and `Images/<City>/<name>.jpg`.

Ali-bey et al., "GSV-Cities: Toward appropriate supervised visual place recognition", 2022. An
image's name is made of its row (dataloaders of amaralibey/gsv-cities).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mixvpr_jax.config import closest
from mixvpr_jax.errors import InputError

COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")


@dataclass(frozen=True)
class Place:
    """A place of a city.

    Attributes:
        city: The table's name.
        place_id: Within the city.
        images: Paths below the data set's folder, in the table's order.
    """

    city: str
    place_id: int
    images: tuple[str, ...]


def read_places(root: Path, cities: Sequence[str], *, min_images: int = 1) -> list[Place]:
    """The places of several cities, city after city, by ascending id.

    Args:
        root: The folder that holds `Dataframes` and `Images`.
        cities: Which cities, in which order.
        min_images: Places with fewer images are left out.

    Raises:
        InputError: No such folder or city, a city given twice or left without places, a table
            without one of its columns or with a value that is none.
    """
    if len(set(cities)) < len(cities):
        raise InputError(f"cities: expected each once, found {', '.join(cities)}")
    tables = root / "Dataframes"
    if not tables.is_dir():
        raise InputError(f"{root}: expected GSV-Cities (Dataframes and Images), found no {tables}")
    places = []
    for city in cities:
        of_city = _read_city(tables / f"{city}.csv")
        kept = [place for place in of_city if len(place.images) >= min_images]
        if not kept:
            raise InputError(
                f"{tables / f'{city}.csv'}: expected places of {min_images} images or more, found "
                f"none among {len(of_city)}"
            )
        places += kept
    return places


def _read_city(table: Path) -> list[Place]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise InputError(f"{table}: expected columns {', '.join(missing)}, found none such")
            images = _images_by_place(rows, table)
    except FileNotFoundError:
        known = [path.stem for path in table.parent.glob("*.csv")]
        raise InputError(f"{table}: no such city{closest(table.stem, sorted(known))}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: expected text in UTF-8, found {error}") from None
    return [Place(table.stem, key, tuple(images[key])) for key in sorted(images)]


def _images_by_place(rows: Iterable[dict[str, str]], table: Path) -> dict[int, list[str]]:
    images: dict[int, list[str]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            images.setdefault(int(row["place_id"]), []).append(_image_path(row))
        except (TypeError, ValueError):
            raise InputError(
                f"{table}: line {number}: expected whole numbers, found {row}"
            ) from None
    return images


def _image_path(row: dict[str, str]) -> str:
    city, place = row["city_id"], int(row["place_id"])
    when = f"{int(row['year']):04d}_{int(row['month']):02d}_{int(row['northdeg']):03d}"
    where = f"{row['lat']}_{row['lon']}_{row['panoid']}"
    return f"Images/{city}/{city}_{place:07d}_{when}_{where}.jpg"
