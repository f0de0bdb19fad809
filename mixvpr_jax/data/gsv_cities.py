"""GSV-Cities on disk: `Dataframes/<City>.csv` and `Images/<City>/<name>.jpg`.

Ali-bey et al., "GSV-Cities: Toward appropriate supervised visual place recognition", 2022. An
image is named by its row's text, or by the numbers that the official loader
(amaralibey/gsv-cities) reads from it: `-79.99` from `-079.990`.
"""

from __future__ import annotations

import csv
import io
import logging
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from etils import epath

from mixvpr_jax.checks import closest, nearest
from mixvpr_jax.data.config import GSV_CITIES
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import as_path

COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
NO_TABLE = ("~$", ".")  # what Excel and macOS put beside files of these names
MAX_PLACE_KM = 1.0  # a place wider than this is two
KM_PER_DEGREE = 111.2
NAME = re.compile(rb"Images/(?!\.\.?/)[^/\\\0]{1,255}/[^/\\\0]{1,255}")  # two steps, and none up
LARGEST = (2**53, 2**53, 90, 180)  # that float64 holds exactly, and degrees
PLACES_PER_CITY = 10**5  # the official loader adds a multiple of it to ids, and takes it away again

Naming = Callable[[epath.Path, np.ndarray], np.ndarray]
"""From a table's path and the names in its text to the names of its images."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Places:
    """Places of several cities and their images, as columns: half a million in some 60 MB.

    Attributes:
        cities: The tables' names, in order.
        city: [places] index into `cities`, ascending.
        place_id: [places] as the table has it, ascending inside a city.
        bounds: [places + 1] place p has the images bounds[p] to bounds[p + 1].
        names: [images] paths below the data set's folder, in UTF-8.
        row: [images] an image's row in its city's table, blank rows not counted.
        age: [images] 0 for the most recent of its city, and so on.
    """

    cities: tuple[str, ...]
    city: np.ndarray
    place_id: np.ndarray
    bounds: np.ndarray
    names: np.ndarray
    row: np.ndarray
    age: np.ndarray

    def __len__(self) -> int:
        return len(self.city)

    @property
    def counts(self) -> np.ndarray:
        """[places] how many images each has."""
        return np.diff(self.bounds)

    def name(self, image: int) -> str:
        """An image's path below the data set's folder."""
        return self.names[image].decode()

    def images_of(self, city: int) -> slice:
        """The images of the city with this index."""
        return slice(*self.bounds[np.searchsorted(self.city, [city, city + 1])].tolist())

    def keep_images(self, kept: np.ndarray, min_images: int) -> Places:
        """Keeps these images ([images] bool), and of places only those with enough of them."""
        counts = np.add.reduceat(kept, self.bounds[:-1], dtype=np.int64)
        large = counts >= min_images
        images = kept & np.repeat(large, self.counts)
        return Places(
            self.cities,
            self.city[large],
            self.place_id[large],
            np.concatenate([[0], np.cumsum(counts[large])]),
            self.names[images],
            self.row[images],
            self.age[images],
        )


def read_places(
    root: epath.PathLike,
    cities: Sequence[str],
    *,
    min_images: int = 1,
    naming: Naming | None = None,
) -> Places:
    """The places of several cities, city after city, by ascending id.

    Args:
        root: The folder that holds `Dataframes`.
        cities: Which cities, in which order.
        min_images: Places with fewer images are left out.
        naming: Names the images, unless their table's text does.

    Raises:
        InputError: A missing folder, city or column; a city that is given twice, lies in two
            tables or keeps no place; a broken value; one id for two places.
    """
    if len({city.casefold() for city in cities}) < len(cities):
        raise InputError(f"cities: expected each once, found {', '.join(cities)}")
    tables = epath.Path(root) / "Dataframes"
    if not tables.is_dir():
        raise InputError(
            f"{root}: expected GSV-Cities (Dataframes and Images), found no {tables}"
            f"{_elsewhere(root)}"
        )
    tables_by_id: dict[str, epath.Path] = {}
    parts = []
    for index, city in enumerate(cities):
        table = _read_table(tables / f"{city}.csv")
        for city_id in dict.fromkeys(table.city_ids):
            if (other := tables_by_id.setdefault(city_id, table.path)) != table.path:
                raise InputError(
                    f"{table.path}: expected a city of its own, found {city_id}, which is in "
                    f"{other}, too"
                )
        if naming is not None:
            table.names = naming(table.path, table.names)
        parts.append(_places_of(table, index, cities, min_images))
    return _joined(tuple(cities), parts)


def all_cities(root: epath.Path) -> tuple[str, ...]:
    """Every city that has a table, in the official order, the others by name."""
    tables = (root / "Dataframes").glob("*.csv")
    found = {path.stem for path in tables if not path.name.startswith(NO_TABLE)}
    official = [city for city in GSV_CITIES if city in found]
    if not found:
        raise InputError(
            f"{root}: expected GSV-Cities (Dataframes and Images), found no tables"
            f"{_elsewhere(root)}"
        )
    return (*official, *sorted(found.difference(official)))


def _elsewhere(root: epath.PathLike) -> str:
    """Where on this disk they may lie instead, as the end of an error line."""
    path = as_path(root)
    inside = sorted(path.glob("*/Dataframes")) if isinstance(path, Path) else []
    return f"; closest: {inside[0].parent}" if inside else nearest(path)


@dataclass
class _Table:
    """A city's rows, as columns."""

    path: epath.Path
    city_ids: list[str]
    place_id: np.ndarray
    month: np.ndarray
    position: np.ndarray  # [rows, 2] latitude and longitude
    names: np.ndarray


def read_rows(path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """The last line and the cells of each row that is not blank, header first.

    Raises:
        InputError: No such city, or no table in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Excel writes a mark before the header
    except FileNotFoundError:
        known = sorted(other.stem for other in path.parent.glob("*.csv"))
        raise InputError(f"{path}: no such city{closest(path.stem, known)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text in UTF-8, found {error}") from None
    reader = csv.reader(io.StringIO(text))
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}: expected a table, found {error}") from None


def other_names(path: epath.Path, wanted: Sequence[int]) -> Iterator[list[bytes]]:
    """`other_names_of` these rows of a valid table, blank rows not counted."""
    rows = read_rows(path)
    _, header = next(rows)
    at, selected = [header.index(name) for name in COLUMNS], set(wanted)
    for index, (_, cells) in enumerate(rows):
        if index in selected:
            yield other_names_of(*(cells[column] for column in at))


def _read_table(path: epath.Path) -> _Table:
    rows = read_rows(path)
    _, header = next(rows, (1, list[str]()))
    if missing := [name for name in COLUMNS if name not in header]:
        raise InputError(f"{path}: expected columns {', '.join(missing)}, found none such")
    at = [header.index(name) for name in COLUMNS]
    city_ids, numbers, names = [], [], []
    for line, row in rows:
        try:
            place, year, month, bearing, city, latitude, longitude, panoid = (row[i] for i in at)
            try:
                place, year, month, degrees = int(place), int(year), int(month), int(bearing)
            except ValueError:
                place, year, month = whole(place), whole(year), whole(month)
                degrees = 0 if is_blank(bearing) else whole(bearing)
            when = 13 * year + month  # some months are 0
            column = (place, when, float(latitude), float(longitude))
            if not all(map(operator.le, map(abs, column), LARGEST)):
                raise ValueError
            numbers.append(column)
            name = (
                f"Images/{city}/{city}_{place:07d}_{year:04d}_{month:02d}_{degrees:03d}_"
                f"{latitude}_{longitude}_{panoid}.jpg".encode()
            )
        except (IndexError, ValueError):
            found = f"{row!r:.300}"
            raise InputError(f"{path}: line {line}: expected numbers, found {found}") from None
        if not NAME.fullmatch(name):
            raise InputError(
                f"{path}: line {line}: expected an image's name inside the data folder, found "
                f"{city[:100]!r} and {panoid[:100]!r}"
            )
        names.append(name)
        city_ids.append(city)
    columns = np.array(numbers, np.float64).reshape(-1, 4)
    place, month = columns[:, :2].astype(np.int64).T
    return _Table(path, city_ids, place, month, columns[:, 2:], np.array(names, "S"))


def _places_of(table: _Table, index: int, cities: Sequence[str], min_images: int) -> Places:
    rows = _first_of_each(table, np.argsort(table.place_id, kind="stable"))
    place_id, starts = np.unique(table.place_id[rows], return_index=True)
    bounds = np.append(starts, len(rows))
    _check_extent(table, rows, place_id, starts)
    by_age = np.lexsort((-table.position[rows, 0], -table.month[rows]))
    age = np.empty(len(rows), np.int32)
    age[by_age] = np.arange(len(rows))  # of one month, the northernmost first, as officially
    city = np.full(len(place_id), index, np.int16)
    every = Places(tuple(cities), city, place_id, bounds, table.names[rows], rows, age)
    kept = every.keep_images(np.ones(len(rows), bool), min_images)
    if not len(kept):
        raise InputError(
            f"{table.path}: expected places of {min_images} images or more, found none among "
            f"{len(every)}"
        )
    return kept


def _first_of_each(table: _Table, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that name an image for the first time."""
    _, firsts = np.unique(table.names[rows], return_index=True)
    if surplus := len(rows) - len(firsts):
        logger.warning("note: %s: %d rows name an image again; kept once", table.path, surplus)
    return rows[np.sort(firsts)]


def _check_extent(
    table: _Table, rows: np.ndarray, place_id: np.ndarray, starts: np.ndarray
) -> None:
    position = table.position[rows]
    low, high = (edge.reduceat(position, starts) for edge in (np.minimum, np.maximum))
    north, east = (high - low).T
    east = np.minimum(east, 360 - east)  # across the date line
    extent = KM_PER_DEGREE * np.hypot(north, east * np.cos(np.radians(low[:, 0])))
    if extent.max(initial=0) > MAX_PLACE_KM:
        widest = int(extent.argmax())
        raise InputError(
            f"{table.path}: expected a place for each place_id, found images of place "
            f"{place_id[widest]} that lie {extent[widest]:.1f} km apart: two places of one id"
        )


def _joined(cities: tuple[str, ...], parts: list[Places]) -> Places:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    bounds = np.concatenate([[0], np.cumsum(column("counts"))])
    others = (column(name) for name in ("names", "row", "age"))
    return Places(cities, column("city"), column("place_id"), bounds, *others)


def whole(text: str) -> int:
    """A whole number, also `10.0`, as pandas writes a column with blanks; else ValueError."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > 2**53:
            raise
        return int(number)


def is_blank(northdeg: str) -> bool:
    """Whether a row lacks the camera's heading."""
    return northdeg.strip().lower() in ("", "nan")


def other_names_of(
    place: str, year: str, month: str, northdeg: str, city: str, lat: str, lon: str, panoid: str
) -> list[bytes]:
    """An image's possible names besides that of its row's text, the official one first.

    Pandas reads a column of whole numbers and blanks as floats.
    """
    full, short = whole(place), whole(place) % PLACES_PER_CITY
    degrees = as_float = "nan"
    if not is_blank(northdeg):
        degrees, as_float = str(whole(northdeg)), str(float(northdeg))
    printed, text = f"{float(lat)}_{float(lon)}", f"{lat}_{lon}"
    forms = (
        (short, degrees, printed),
        (short, as_float, printed),
        (full, degrees, printed),
        (short, degrees, text),
        (full, northdeg.strip(), text),
    )
    when = f"{whole(year):04d}_{whole(month):02d}"
    return [
        f"Images/{city}/{city}_{place:07d}_{when}_{bearing.zfill(3)}_{where}_{panoid}.jpg".encode()
        for place, bearing, where in forms
    ]
