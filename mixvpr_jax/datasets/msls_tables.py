"""What Mapillary's tables, or a downloader's file names, say of each image."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mixvpr_jax.datasets.folders import ImageFolder
from mixvpr_jax.datasets.positions import Placed, place, require_metres
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

VAL_CITIES = ("cph", "sf")
TEST_CITIES = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")
_ZONES = {"10": "sf", "32": "cph", "33": "cph"}
_ZONE_OF = {"cph": "33U", "sf": "10S"}  # what the tables' metres are of
_KEY, _TIME, _NOTE = 7, 13, 14  # fields of a downloader's name: …@key@…@timestamp@note@.jpg


@dataclass(frozen=True)
class Shot:
    """One image.

    Attributes:
        key: Mapillary's name of it.
        city: Such as "cph".
        utm: East and north in metres.
        zone: The UTM zone and latitude band that they are of, such as "33U"; "" where not known.
        light: "day" or "night"; None where not said.
        season: "spring", …; None where not said.
    """

    key: str
    city: str
    utm: tuple[float, float]
    zone: str = ""
    light: str | None = None
    season: str | None = None


def read_table(file: AnyPath, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table with the number of their line.

    Raises:
        InputError: No such file, no text, or a column is missing.
    """
    try:
        with io.TextIOWrapper(file.open("rb"), newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{file}: expected columns {', '.join(missing)}, found none such")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise InputError(f"{file}: expected a table, {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: expected a table in UTF-8, {error}") from None


def read_shots(folder: AnyPath, city: str) -> list[Shot]:
    """The images of `train_val/CITY/query` or `…/database` but for panoramas, in their order.

    Raises:
        InputError: A table is missing, broken, or the two do not list the same images.
    """
    raw = {row["key"]: row for _, row in read_table(folder / "raw.csv", "key", "pano")}
    shots, file = [], folder / "postprocessed.csv"
    for line, row in read_table(file, "key", "easting", "northing"):
        key = row["key"]
        if key not in raw:
            raise InputError(f"{file}: line {line}: expected an image of raw.csv, found {key}")
        if raw[key]["pano"].strip().lower() == "true":
            continue
        utm = _metres(file, line, row["easting"], row["northing"])
        season = _season(raw[key].get("captured_at") or "")
        light = _light(row.get("night") or "")
        shots.append(Shot(key, city, utm, _ZONE_OF.get(city, ""), light, season))
    return shots


def named_shots(folder: ImageFolder) -> list[Shot]:
    """The same out of the names of VPR-datasets-downloader: an image each, in their order."""
    count = len(folder.paths)
    utm = np.zeros((count, 2)) if folder.utm is None else folder.utm
    zones = np.full(count, "") if folder.zones is None else folder.zones
    shots = []
    for path, (east, north), zone in zip(folder.paths, utm.tolist(), zones.tolist(), strict=True):
        fields = [*path.name.split("@"), *[""] * 16]
        light, _, rest = fields[_NOTE].partition("_")
        city = rest.rpartition("_")[2] or _ZONES.get(fields[3].lstrip("0"), fields[3])
        season = _season(fields[_TIME])
        key = fields[_KEY].removesuffix(".jpg")
        known = light if light in ("day", "night") else None
        zone = zone or _ZONE_OF.get(city, "")
        shots.append(Shot(key, city, (east, north), zone, known, season))
    return shots


def conditions(shots: Sequence[Shot]) -> Mapping[str, Sequence[str]]:
    """What all of these images tell: city, light, season."""
    columns = {
        "city": [shot.city for shot in shots],
        "light": [shot.light for shot in shots],
        "season": [shot.season for shot in shots],
    }
    return {
        name: [str(label) for label in labels] for name, labels in columns.items() if all(labels)
    }


def positions(
    source: object, database: Sequence[Shot], queries: Sequence[Shot]
) -> tuple[Placed, Placed]:
    """Where the images of both lists are.

    Raises:
        InputError: As `require_metres` and `place`.
    """
    sides = _metres_of(database), _metres_of(queries)
    require_metres(source, *sides)
    zones = [np.array([shot.zone for shot in shots], str) for shots in (database, queries)]
    return place(source, sides, (zones[0], zones[1]))


def _metres_of(shots: Sequence[Shot]) -> np.ndarray:
    return np.array([shot.utm for shot in shots], np.float64).reshape(-1, 2)


def _metres(file: AnyPath, line: int, *values: str) -> tuple[float, float]:
    try:
        east, north = map(float, values)
    except ValueError:
        east = north = math.nan
    if not (math.isfinite(east) and math.isfinite(north)):
        raise InputError(f"{file}: line {line}: expected metres, found {', '.join(values)}")
    return east, north


def _light(night: str) -> str | None:
    return {"true": "night", "false": "day"}.get(night.strip().lower())


def _season(captured: str) -> str | None:
    """Of the northern hemisphere, where the cities of val are; from 2018-01-31 or 20180131."""
    date = re.match(r"\d{4}-?(\d\d)", captured)
    month = int(date[1]) if date else 0
    if not 1 <= month <= 12:
        return None
    return ("winter", "spring", "summer", "autumn")[month % 12 // 3]
