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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from mixvpr_jax.checks import closest, no_folder
from mixvpr_jax.data.config import GSV_CITIES
from mixvpr_jax.errors import InputError
from mixvpr_jax.listing import composed, links_in, read_text
from mixvpr_jax.storage import as_path

COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
IMAGE = "image"  # of prepared tables: an image's name, where the other cells tell another
NO_TABLE = ("~$", ".")  # what Excel and macOS put beside files of these names
MAX_PLACE_KM = 1.0  # a place wider than this is two
KM_PER_DEGREE = 111.2
NAME = re.compile(rb"Images/(?!\.\.?/)[^/\\\0]{1,255}/[^/\\\0]{1,255}")  # two steps, and none up
LARGEST = 2**53  # below which float64 holds each whole number
PLACES_PER_CITY = 10**5  # the official loader adds a multiple of it to ids, and takes it away again

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
        age: [images] 0 for the most recent of all, and so on.
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


class Row(NamedTuple):
    """A row of a table."""

    cells: tuple[str, ...]  # by COLUMNS
    numbers: tuple[int, int, float, float]  # place, month of all years, latitude, longitude
    northdeg: int | None  # None where it is blank
    name: str  # of the image, by the cells' text
    image: str  # its name in a prepared table, or ""

    @classmethod
    def read(cls, cells: tuple[str, ...], image: str) -> Row:
        """The row of these cells; ValueError for a number that is none."""
        place, year, month, northdeg, city, lat, lon, panoid = cells
        place, year, month = whole(place), whole(year), whole(month)
        degrees = None if northdeg.strip().lower() in ("", "nan") else whole(northdeg)
        numbers = place, 13 * year + month, float(lat), float(lon)  # some months are 0
        if not (abs(numbers[2]) <= 90 and abs(numbers[3]) <= 180):
            raise ValueError
        name = (
            f"Images/{city}/{city}_{place:07d}_{year:04d}_{month:02d}_{degrees or 0:03d}_"
            f"{lat}_{lon}_{panoid}.jpg"
        )
        return cls(cells, numbers, degrees, name, image)

    def names(self) -> Iterator[str]:
        """The image's possible names: that of the text, the official one, then others.

        Pandas reads a column of whole numbers and blanks as floats.
        """
        yield self.name
        _, year, month, northdeg, city, lat, lon, panoid = self.cells
        full, short = self.numbers[0], self.numbers[0] % PLACES_PER_CITY
        degrees = as_float = "nan"
        if self.northdeg is not None:
            degrees, as_float = str(self.northdeg), str(float(northdeg))
        printed, text = f"{float(lat)}_{float(lon)}", f"{lat}_{lon}"
        forms = (
            (short, degrees, printed),
            (short, as_float, printed),
            (full, degrees, printed),
            (short, degrees, text),
            (full, northdeg.strip(), text),
        )
        when = f"{whole(year):04d}_{whole(month):02d}"
        for place, bearing, where in forms:
            begin = f"Images/{city}/{city}_{place:07d}_{when}_{bearing.zfill(3)}"
            yield f"{begin}_{where}_{panoid}.jpg"


Naming = Callable[[Iterable[Row]], list[str]]
"""From a table's rows to the names of their images."""


def named_by_table(rows: Iterable[Row]) -> list[str]:
    """The names of a prepared table's images."""
    return [row.image or row.name for row in rows]


def in_bytes(name: str) -> bytes:
    """A name as it is on a disk, where it may be of any encoding."""
    return name.encode(errors="surrogateescape")


def read_places(
    root: epath.PathLike,
    cities: Sequence[str] = (),
    *,
    min_images: int = 1,
    naming: Naming = named_by_table,
) -> Places:
    """The places of several cities, city after city, by ascending id.

    Args:
        root: The folder that holds `Dataframes`.
        cities: Which cities, in which order; none means each that has a table.
        min_images: Places with fewer images are left out.
        naming: Names the images of a table.
    """
    tables, owners = _tables(epath.Path(root), cities), dict[str, epath.Path]()
    read = [_read_table(table, naming, owners) for table in tables]
    numbers, names, row = (np.concatenate(column) for column in zip(*read, strict=True))
    city = np.repeat(np.arange(len(read), dtype=np.int16), [len(rows) for *_, rows in read])
    place_id, month, lat, lon = numbers.T
    is_first = (np.diff(city, prepend=-1) != 0) | (np.diff(place_id, prepend=np.nan) != 0)
    starts = np.flatnonzero(is_first)
    extent = _extent_km(lat, lon, starts)
    if extent.max(initial=0) > MAX_PLACE_KM:
        widest = starts[extent.argmax()]
        raise InputError(
            f"{tables[city[widest]]}: expected a place for each place_id, found images of place "
            f"{place_id[widest]:.0f} that lie {extent.max():.1f} km apart: two places of one id"
        )
    age = np.empty(len(row), np.int32)
    age[np.lexsort((-lat, -month))] = np.arange(len(row))  # of a month, from the north, officially
    places = Places(
        tuple(table.stem for table in tables),
        city[starts],
        place_id[starts].astype(np.int64),
        np.append(starts, len(row)),
        names,
        row,
        age,
    ).keep_images(np.ones(len(row), bool), min_images)
    require_each_city(root, places, min_images)
    return places


def require_each_city(root: epath.PathLike, places: Places, min_images: int) -> None:
    """Raises InputError if a city has no places left."""
    if without := [city for index, city in enumerate(places.cities) if index not in places.city]:
        raise InputError(
            f"{root}: expected places of {min_images} images or more in each city, found none in "
            f"{', '.join(without)}"
        )


def _tables(root: epath.Path, cities: Sequence[str]) -> list[epath.Path]:
    """The cities' tables; without cities all, in the official order, then by name."""
    folder = root / "Dataframes"  # no glob: epath takes a folder named [x] for a pattern
    names = [name for name in links_in(folder) if name.lower().endswith(".csv")]
    tables = {name[:-4]: folder / name for name in names if not name.startswith(NO_TABLE)}
    if not tables:
        local = as_path(root)
        inside = sorted(local.glob("*/Dataframes")) if isinstance(local, Path) else []
        found = f"no tables; closest: {inside[0].parent}" if inside else "no tables"
        if isinstance(local, Path) and not local.is_dir():
            found = no_folder(local)
        raise InputError(f"{root}: expected GSV-Cities (Dataframes and Images), found {found}")
    if not cities:
        official = [city for city in GSV_CITIES if city in tables]
        cities = [*official, *sorted(tables.keys() - set(official))]
    if len({composed(city).casefold() for city in cities}) < len(cities):
        raise InputError(f"cities: expected each once, found {', '.join(cities)}")
    spelled = {composed(city): path for city, path in tables.items()}
    for city in cities:
        if composed(city) not in spelled:
            raise InputError(
                f"{root / 'Dataframes' / city}.csv: no such city{closest(city, sorted(tables))}"
            )
    found = [tables.get(city) or spelled[composed(city)] for city in cities]
    for path in found:
        if path.suffix != ".csv":
            raise InputError(f"{path}: expected tables that end in .csv; rename it")
    return found


def read_rows(path: epath.Path) -> Iterator[Row]:
    """The rows of a table that are not blank."""
    reader = csv.reader(io.StringIO(read_text(path)))
    filled = (cells for cells in reader if any(map(str.strip, cells)))
    try:
        header = next(filled, list[str]())
        if missing := [name for name in COLUMNS if name not in header]:
            raise InputError(
                f"{path}: expected columns {', '.join(missing)}, separated by commas, found "
                f"{','.join(header)!r:.200}"
            )
        cells_of = operator.itemgetter(*map(header.index, COLUMNS))
        image_at = header.index(IMAGE) if IMAGE in header else None
        for cells in filled:
            try:
                row = Row.read(cells_of(cells), "" if image_at is None else cells[image_at])
            except (IndexError, ValueError):
                raise InputError(
                    f"{path}: line {reader.line_num}: expected numbers, whole but for lat and lon, "
                    f"found {cells!r:.300}"
                ) from None
            if not NAME.fullmatch(row.name.encode()):
                *_, city, _, _, panoid = row.cells
                raise InputError(
                    f"{path}: line {reader.line_num}: expected an image's name inside the data "
                    f"folder, found {city[:100]!r} and {panoid[:100]!r}"
                )
            yield row
    except csv.Error as error:
        raise InputError(f"{path}: expected a table, found {error}") from None


def _read_table(
    path: epath.Path, naming: Naming, owners: dict[str, epath.Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Row.numbers` [n, 4], names and rows of a table's images, by ascending place.

    `owners` tells, and learns, which table holds each city.
    """
    numbers, cities = [], set[str]()

    def rows() -> Iterator[Row]:
        for row in read_rows(path):
            city = row.cells[4]
            if city not in cities:
                if (other := owners.setdefault(composed(city), path)) != path:
                    raise InputError(
                        f"{path}: expected a city of its own, found {city}, which is in {other}, "
                        "too"
                    )
                cities.add(city)
            numbers.append(row.numbers)
            yield row

    names = np.array([in_bytes(name) for name in naming(rows())], "S")
    columns = np.array(numbers, np.float64).reshape(-1, 4)
    order = np.argsort(columns[:, 0], kind="stable")
    _, firsts = np.unique(names[order], return_index=True)
    if surplus := len(names) - len(firsts):
        logger.warning("note: %s: %d rows name an image again; kept once", path, surplus)
    order = order[np.sort(firsts)]
    return columns[order], names[order], order


def _extent_km(lat: np.ndarray, lon: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """[places] how far the images of each lie apart."""
    position = np.stack([lat, lon], axis=1)
    low, high = (edge.reduceat(position, starts) for edge in (np.minimum, np.maximum))
    north, east = (high - low).T
    east = np.minimum(east, 360 - east)  # across the date line
    return KM_PER_DEGREE * np.hypot(north, east * np.cos(np.radians(low[:, 0])))


def whole(text: str) -> int:
    """A whole number, also `10.0`, as pandas writes a column with blanks; else ValueError."""
    try:
        number = int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
    if abs(number) > LARGEST:
        raise ValueError(text)
    return int(number)
