"""A generated town for demos and tests: photos of streets, written as data sets are laid out.

A place is a street of `street.build_place`. Its photos differ as those of a street do: by where the
camera stands and looks, by light, season and passers-by, and by the sensor. `difficulty` scales all
of these. Everything is a function of the configuration, so the same call writes the same pixels.
"""

from __future__ import annotations

import multiprocessing
import re
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mixvpr_jax.data.city.camera import expose, paint
from mixvpr_jax.data.city.conditions import Conditions, draw_conditions
from mixvpr_jax.data.city.street import Place, build_place
from mixvpr_jax.data.drawn import MARK, PANOID_LENGTH, check_table, photos_drawn_before
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import atomic_write
from mixvpr_jax.workers import out_of_reach_of_ctrl_c

SUPERSAMPLING = 2
GRID_COLUMNS, GRID_SPACING_M, GRID_JITTER_M = 32, 110.0, 12.0
TOWN_ORIGIN_M = (550_000.0, 4_180_000.0)
METRES_PER_DEGREE = 111_320.0
PANOID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
CSV_HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid"
EVALUATION_NAME = re.compile(r"@\d+\.\d\d@\d+\.\d\d@place\d{4,}@view\d{2,}@\.jpg")


Result = TypeVar("Result")


@dataclass(frozen=True)
class CityConfig:
    """What to draw.

    Attributes:
        num_places: places of the town (of each city in the GSV-Cities layout).
        images_per_place: views of each place.
        image_size: width and height in pixels.
        difficulty: how much views of one place differ, from 0 (hardly) to 1 (as much as they may).
        seed: chooses the town; not negative.

    Raises:
        InputError: a value lies outside its range.
    """

    num_places: int = 24
    images_per_place: int = 4
    image_size: tuple[int, int] = (400, 300)
    difficulty: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _expect(self.num_places >= 1, "num_places of at least 1", self.num_places)
        _expect(self.images_per_place >= 1, "images_per_place of at least 1", self.images_per_place)
        size_is_fine = len(self.image_size) == 2 and min(self.image_size) >= 32
        _expect(size_is_fine, "image_size (width, height) of at least 32 pixels", self.image_size)
        _expect(0 <= self.difficulty <= 1, "difficulty between 0 and 1", self.difficulty)
        _expect(self.seed >= 0, "seed of at least 0", self.seed)


def _expect(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise InputError(f"expected {expected}, found {found}")


# A place takes longer to build than a small view of it to paint; its views come one after another.
_street = lru_cache(maxsize=4)(build_place)


@dataclass(frozen=True)
class View:
    """One photo to be taken: a pure function of the town and two numbers."""

    town: CityConfig
    place: int
    number: int

    def look(self) -> tuple[Place, Conditions, np.random.Generator]:
        """The street, what the photo is taken under, and the random stream that goes on.

        Each view has a stream of its own, so that the order of calls is of no account.
        """
        town = self.town
        street = _street(town.seed, self.place)
        rng = np.random.default_rng([town.seed, self.place, 2, self.number])
        return street, draw_conditions(rng, town.difficulty, street), rng

    def draw(self) -> Image.Image:
        """Takes the photo."""
        street, conditions, rng = self.look()
        width, height = self.town.image_size
        canvas = paint(street, conditions, (width * SUPERSAMPLING, height * SUPERSAMPLING), rng)
        return expose(canvas.reduce(SUPERSAMPLING), conditions, rng)

    def save(self, path: Path) -> None:
        """Writes the photo as a JPEG."""
        quality = self.look()[1].jpeg_quality
        with atomic_write(path) as temporary:
            self.draw().save(temporary, "JPEG", quality=quality, comment=MARK)


def draw_view(config: CityConfig, place: int, view: int) -> Image.Image:
    """Draws one photo; a pure function of its arguments.

    Args:
        config: The town; its difficulty says how much the views of a place differ.
        place: Which place, from 0 to config.num_places - 1.
        view: Which view of it, from 0 to config.images_per_place - 1.

    Returns:
        An RGB picture of config.image_size.

    Raises:
        InputError: No such place or view.
    """
    _expect(0 <= place < config.num_places, f"place below {config.num_places}", place)
    _expect(0 <= view < config.images_per_place, f"view below {config.images_per_place}", view)
    return View(config, place, view).draw()


def _views(town: CityConfig, place: int) -> list[View]:
    return [View(town, place, number) for number in range(town.images_per_place)]


def _of_each_place(town: CityConfig, work: Callable[[int], Result], workers: int) -> list[Result]:
    """What `work` gives for every place, done by so many processes."""
    places = range(town.num_places)
    if workers == 1:
        return [work(place) for place in places]
    # Not forked: JAX may have been loaded, whose threads a fork does not survive.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        with out_of_reach_of_ctrl_c():
            found = pool.map(work, places, chunksize=2)  # which starts them
        return list(found)


def _bearing_deg(config: CityConfig, place: int) -> float:
    """Which way the street runs, clockwise from north: along the grid, more or less."""
    rng = np.random.default_rng([config.seed, place, 3])
    return float(90 * rng.integers(4) + rng.uniform(-12, 12))


def _utm_m(config: CityConfig, place: int, conditions: Conditions) -> tuple[float, float]:
    """East and north of the camera; places lie GRID_SPACING_M - 2 GRID_JITTER_M apart or more."""
    row, column = divmod(place, GRID_COLUMNS)
    rng = np.random.default_rng([config.seed, place, 4])
    jitter_east, jitter_north = rng.uniform(-GRID_JITTER_M, GRID_JITTER_M, 2)
    (right, ahead, _), bearing = conditions.position_m, np.radians(_bearing_deg(config, place))
    east = right * np.cos(bearing) + ahead * np.sin(bearing) + jitter_east
    north = -right * np.sin(bearing) + ahead * np.cos(bearing) + jitter_north
    return (
        float(TOWN_ORIGIN_M[0] + column * GRID_SPACING_M + east),
        float(TOWN_ORIGIN_M[1] + row * GRID_SPACING_M + north),
    )


def write_evaluation_folders(
    config: CityConfig,
    folder: Path,
    *,
    queries_per_place: int = 1,
    overwrite: bool = False,
    workers: int = 1,
) -> tuple[Path, Path]:
    """Writes a database and queries in the name convention of VPR-methods-evaluation.

    Names are `@utm_east@utm_north@placeNNNN@viewNN@.jpg`, in metres. Any two places lie at least
    60 m apart, the views of a place within 10 m of its centre: within 25 m of a query lie exactly
    the database views of its own place.

    Args:
        config: The town.
        folder: Where `database` and `queries` go.
        queries_per_place: How many of each place's views, its last, are queries.
        overwrite: Whether photos of an earlier call may be replaced.
        workers: Processes that draw.

    Returns:
        The folder of the database and that of the queries.

    Raises:
        InputError: Files are there that may not be replaced, or queries_per_place leaves no query
            or no database.
    """
    most = config.images_per_place - 1
    _expect(1 <= queries_per_place <= most, f"queries_per_place in 1 … {most}", queries_per_place)
    database, queries = Path(folder) / "database", Path(folder) / "queries"
    for photo in photos_drawn_before((database, queries), EVALUATION_NAME, overwrite):
        photo.unlink()
    folders = [database] * (config.images_per_place - queries_per_place)
    folders += [queries] * queries_per_place
    _of_each_place(config, partial(_save_labelled, config, folders), workers)
    return database, queries


def _save_labelled(config: CityConfig, folders: Sequence[Path], place: int) -> None:
    """A place's photos, the first view into the first folder and so on."""
    for view, folder in zip(_views(config, place), folders, strict=True):
        _, conditions, _ = view.look()
        east, north = _utm_m(config, place, conditions)
        name = f"@{east:010.2f}@{north:010.2f}@place{place:04d}@view{view.number:02d}@.jpg"
        view.save(folder / name)


def write_gsv_cities(
    config: CityConfig,
    folder: Path,
    *,
    cities: Sequence[str] = ("Avalon", "Brigadoon"),
    overwrite: bool = False,
    workers: int = 1,
) -> Path:
    """Writes towns in the layout of GSV-Cities: `Dataframes/<City>.csv` and `Images/<City>/*.jpg`.

    Args:
        config: The towns; config.num_places is for each city, and every city has other places.
        folder: Where `Dataframes` and `Images` go.
        cities: Names of ASCII letters, none twice.
        overwrite: Whether cities of an earlier call may be replaced.
        workers: Processes that draw.

    Returns:
        The folder.

    Raises:
        InputError: Files of a city are there that may not be replaced, or its name is not of
            letters or comes twice.
    """
    for city in cities:
        is_fine = city.isascii() and city.isalpha() and list(cities).count(city) == 1
        _expect(is_fine, "distinct city names of ASCII letters", city)
    folder, own_name = Path(folder), re.compile(r"[A-Za-z]+_\d{7}_\d{4}_\d\d_\d{3}_.*\.jpg")
    tables = [folder / "Dataframes" / f"{city}.csv" for city in cities]
    folders = [folder / "Images" / city for city in cities]
    photos = photos_drawn_before(folders, own_name, overwrite)
    for table in tables:
        check_table(table, photos, overwrite)
    for file in (*tables, *photos):
        file.unlink(missing_ok=True)
    for city in cities:
        _write_city(config, folder, city, workers)
    return folder


def _write_city(config: CityConfig, folder: Path, city: str, workers: int) -> None:
    town = replace(config, seed=zlib.crc32(f"{config.seed} {city}".encode()))
    work = partial(_save_gsv, town, folder, city)
    rows = [row for of_place in _of_each_place(town, work, workers) for row in of_place]
    # The table comes last: a city that was broken off has pictures and no table.
    with atomic_write(folder / "Dataframes" / f"{city}.csv") as temporary:
        lines = [CSV_HEADER, *(row.csv_line for row in rows)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _save_gsv(town: CityConfig, folder: Path, city: str, place: int) -> list[GsvRow]:
    """A place's photos, and their rows of the table."""
    rows = []
    for view in _views(town, place):
        rows.append(_gsv_row(town, city, view))
        view.save(folder / "Images" / city / rows[-1].file_name)
    return rows


@dataclass(frozen=True)
class GsvRow:
    """One image of GSV-Cities; latitude and longitude as their text stands in table and name."""

    place: int
    year: int
    month: int
    north_deg: int
    city: str
    latitude: str
    longitude: str
    panorama: str

    @property
    def csv_line(self) -> str:
        """The row as it stands in the table."""
        return ",".join(str(value) for value in astuple(self))

    @property
    def file_name(self) -> str:
        """The picture's name, as the data set's own loader builds it from the row."""
        when = f"{self.year:04d}_{self.month:02d}_{self.north_deg:03d}"
        where = f"{self.latitude}_{self.longitude}_{self.panorama}"
        return f"{self.city}_{self.place:07d}_{when}_{where}.jpg"


def _gsv_row(town: CityConfig, city: str, view: View) -> GsvRow:
    place, (_, conditions, _) = view.place, view.look()
    rng = np.random.default_rng([town.seed, place, 5, view.number])
    east, north = np.subtract(_utm_m(town, place, conditions), TOWN_ORIGIN_M)
    latitude = 36 + town.seed % 19 + north / METRES_PER_DEGREE
    longitude = 5 + town.seed % 23 + east / METRES_PER_DEGREE / np.cos(np.radians(latitude))
    # The float's own text: whoever reads the table as numbers then still finds the files.
    return GsvRow(
        place=place,
        year=int(rng.integers(2008, 2022)),
        month=conditions.month,
        north_deg=int(_bearing_deg(town, place) + conditions.heading_deg) % 360,
        city=city,
        latitude=str(round(float(latitude), 7)),
        longitude=str(round(float(longitude), 7)),
        panorama="".join(
            PANOID_LETTERS[index] for index in rng.integers(0, [63, *[64] * (PANOID_LENGTH - 1)])
        ),
    )
