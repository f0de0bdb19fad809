"""A generated town for demos and tests: photos of streets, written as data sets are laid out.

A place is a street of `street.build_place`. Its photos differ as those of a street do: by where the
camera stands and looks, by light, season and passers-by, and by the sensor. `difficulty` scales all
of these. Everything is a function of the configuration, so the same call writes the same pixels.
"""

from __future__ import annotations

import multiprocessing
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from demo.camera import paint
from demo.light import Conditions, expose
from demo.street import build_place
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import atomic_write
from mixvpr_jax.workers import out_of_reach_of_ctrl_c

SUPERSAMPLING = 2
GRID_COLUMNS, GRID_SPACING_M, GRID_JITTER_M = 32, 110.0, 12.0
TOWN_ORIGIN_M = (550_000.0, 4_180_000.0)
METRES_PER_DEGREE = 111_320.0
PANOID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
PANOID_LENGTH = 22
CSV_HEADER = "place_id,year,month,northdeg,city_id,lat,lon,panoid"
EVALUATION_NAME = re.compile(r"@\d+\.\d\d@\d+\.\d\d@place\d{4,}@view\d{2,}@\.jpg")
GSV_NAME = re.compile(r"[A-Za-z]+_\d{7}_\d{4}_\d\d_\d{3}_.*\.jpg")
# A comment at the start of each JPEG that tells it from a real photo of the same name. Its words
# are those of earlier versions, whose towns may be replaced, too.
MARK, MARK_WITHIN_BYTES = b"drawn by mixvpr_jax.data.draw", 256

Result = TypeVar("Result")


@dataclass(frozen=True)
class CityConfig:
    """What to draw.

    Attributes:
        num_places: places of the town (of each city in the GSV-Cities layout).
        images_per_place: views of each place.
        image_size: height and width in pixels.
        difficulty: how much views of one place differ, from 0 (hardly) to 1 (as much as they may).
        seed: chooses the town; not negative.

    Raises:
        InputError: a value lies outside its range.
    """

    num_places: int = 24
    images_per_place: int = 4
    image_size: tuple[int, int] = (300, 400)
    difficulty: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _expect(self.num_places >= 1, "num_places of at least 1", self.num_places)
        _expect(self.images_per_place >= 1, "images_per_place of at least 1", self.images_per_place)
        size_is_fine = len(self.image_size) == 2 and min(self.image_size) >= 32
        _expect(size_is_fine, "image_size (height, width) of at least 32 pixels", self.image_size)
        _expect(0 <= self.difficulty <= 1, "difficulty between 0 and 1", self.difficulty)
        _expect(self.seed >= 0, "seed of at least 0", self.seed)


def _expect(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise InputError(f"expected {expected}, found {found}")


def draw_view(config: CityConfig, place: int, view: int) -> Image.Image:
    """Draws one photo, an RGB picture; a pure function of its arguments.

    Raises:
        InputError: The town has no such place, or the place no such view.
    """
    _expect(0 <= place < config.num_places, f"place below {config.num_places}", place)
    _expect(0 <= view < config.images_per_place, f"view below {config.images_per_place}", view)
    return _take(config, place, view)[0]


def _take(town: CityConfig, place: int, view: int) -> tuple[Image.Image, Conditions]:
    """A photo, and what it is taken under; each view has a random stream of its own."""
    street, rng = build_place(town.seed, place), np.random.default_rng([town.seed, place, 2, view])
    conditions = Conditions(rng, town.difficulty, street.kerb_m)
    height, width = town.image_size
    canvas = paint(street, conditions, (width * SUPERSAMPLING, height * SUPERSAMPLING), rng)
    return expose(canvas.reduce(SUPERSAMPLING), conditions, rng), conditions


def _save(photo: Image.Image, path: Path, conditions: Conditions) -> None:
    with atomic_write(path) as temporary:
        photo.save(temporary, "JPEG", quality=conditions.jpeg_quality, comment=MARK)


def _of_each_place(town: CityConfig, work: Callable[[int], Result], workers: int) -> list[Result]:
    """What `work` returns for every place, computed by `workers` processes."""
    places = range(town.num_places)
    if workers == 1:
        return [work(place) for place in places]
    # Not forked: JAX may have been loaded, whose threads a fork does not survive.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        with out_of_reach_of_ctrl_c():
            results = pool.map(work, places, chunksize=2)  # which starts them
        return list(results)


def _pose(town: CityConfig, place: int, conditions: Conditions) -> tuple[float, float, float]:
    """East and north of the camera in the town, in metres, and where the street runs, in degrees.

    Streets follow the grid, more or less; places are at least GRID_SPACING_M - 2 GRID_JITTER_M
    apart.
    """
    row, column = divmod(place, GRID_COLUMNS)
    rng = np.random.default_rng([town.seed, place, 3])
    bearing_deg = float(90 * rng.integers(4) + rng.uniform(-12, 12))
    rng = np.random.default_rng([town.seed, place, 4])
    jitter_east, jitter_north = rng.uniform(-GRID_JITTER_M, GRID_JITTER_M, 2)
    (right, ahead, _), bearing = conditions.position_m, np.radians(bearing_deg)
    east = right * np.cos(bearing) + ahead * np.sin(bearing) + jitter_east
    north = -right * np.sin(bearing) + ahead * np.cos(bearing) + jitter_north
    return column * GRID_SPACING_M + east, row * GRID_SPACING_M + north, bearing_deg


def write_evaluation_folders(
    config: CityConfig,
    folder: Path,
    *,
    queries_per_place: int = 1,
    overwrite: bool = False,
    workers: int = 1,
) -> tuple[Path, Path]:
    """Writes `database` and `queries`, whose paths it returns, named as in VPR-methods-evaluation.

    Names are `@utm_east@utm_north@placeNNNN@viewNN@.jpg`, in metres. Any two places lie at least
    60 m apart, the views of a place within 10 m of its centre: within 25 m of a query lie exactly
    the database views of its own place. The last `queries_per_place` views of each are queries.

    Raises:
        InputError: Files are there that may not be replaced, or queries_per_place leaves no query
            or no database.
    """
    most = config.images_per_place - 1
    _expect(1 <= queries_per_place <= most, f"queries_per_place in 1 … {most}", queries_per_place)
    database, queries = Path(folder) / "database", Path(folder) / "queries"
    for photo in _drawn_before((database, queries), EVALUATION_NAME, overwrite):
        photo.unlink()
    folders = [database] * (config.images_per_place - queries_per_place)
    folders += [queries] * queries_per_place
    _of_each_place(config, partial(_write_labelled, config, folders), workers)
    return database, queries


def _write_labelled(town: CityConfig, folders: Sequence[Path], place: int) -> None:
    """Writes a place's photos, the first view into the first folder and so on."""
    for view, folder in enumerate(folders):
        photo, conditions = _take(town, place, view)
        east, north = np.add(TOWN_ORIGIN_M, _pose(town, place, conditions)[:2])
        name = f"@{east:010.2f}@{north:010.2f}@place{place:04d}@view{view:02d}@.jpg"
        _save(photo, folder / name, conditions)


def write_gsv_cities(
    config: CityConfig,
    folder: Path,
    *,
    cities: Sequence[str] = ("Avalon", "Brigadoon"),
    overwrite: bool = False,
    workers: int = 1,
) -> Path:
    """Writes towns in the layout of GSV-Cities: `Dataframes/<City>.csv` and `Images/<City>/*.jpg`.

    Each city has `config.num_places` places of its own. Returns the folder.

    Raises:
        InputError: Files of a city are there that may not be replaced, or its name is not of
            ASCII letters or comes twice.
    """
    for city in cities:
        is_fine = city.isascii() and city.isalpha() and list(cities).count(city) == 1
        _expect(is_fine, "distinct city names of ASCII letters", city)
    folder = Path(folder)
    photos = _drawn_before([folder / "Images" / city for city in cities], GSV_NAME, overwrite)
    tables = [folder / "Dataframes" / f"{city}.csv" for city in cities]
    for table in filter(Path.exists, tables):
        if not overwrite:
            raise _refused(folder, "no such table", table.name)
        text = table.read_text(encoding="utf-8", errors="replace")
        if not any(photo.stem[-PANOID_LENGTH:] in text for photo in photos):
            raise _not_drawn(table)
    for file in (*tables, *photos):
        file.unlink(missing_ok=True)
    for city, table in zip(cities, tables, strict=True):
        town = replace(config, seed=zlib.crc32(f"{config.seed} {city}".encode()))
        work = partial(_write_gsv_place, town, folder / "Images" / city)
        rows = [row for rows in _of_each_place(town, work, workers) for row in rows]
        # The table comes last: a city that was broken off has pictures and no table.
        with atomic_write(table) as temporary:
            temporary.write_text("\n".join([CSV_HEADER, *rows, ""]), encoding="utf-8")
    return folder


def _write_gsv_place(town: CityConfig, folder: Path, place: int) -> list[str]:
    """Writes a place's photos; returns their rows of the table."""
    rows, city = [], folder.name
    for view in range(town.images_per_place):
        photo, conditions = _take(town, place, view)
        east, north, bearing_deg = _pose(town, place, conditions)
        latitude = 36 + town.seed % 19 + north / METRES_PER_DEGREE
        longitude = 5 + town.seed % 23 + east / METRES_PER_DEGREE / np.cos(np.radians(latitude))
        # A float's own text: whoever reads the table as numbers then still finds the files.
        lat, lon = round(float(latitude), 7), round(float(longitude), 7)
        rng = np.random.default_rng([town.seed, place, 5, view])
        year, month = int(rng.integers(2008, 2022)), conditions.month
        northdeg = int(bearing_deg + conditions.heading_deg) % 360
        letters = rng.integers(0, [63, *[64] * (PANOID_LENGTH - 1)])
        panoid = "".join(PANOID_LETTERS[letter] for letter in letters)
        rows.append(f"{place},{year},{month},{northdeg},{city},{lat},{lon},{panoid}")
        when = f"{year:04d}_{month:02d}_{northdeg:03d}"
        name = f"{city}_{place:07d}_{when}_{lat}_{lon}_{panoid}.jpg"
        _save(photo, folder / name, conditions)
    return rows


def _drawn_before(
    folders: Iterable[Path], own_name: re.Pattern[str], overwrite: bool
) -> list[Path]:
    """The photos in these folders that a new drawing replaces; files of other names stay.

    Raises:
        InputError: There are files and nothing may be replaced, or photos without the mark.
    """
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    files = [file for file in files if not file.name.startswith(".")]
    if files and not overwrite:
        raise _refused(files[0].parent, "an empty folder", files[0].name)
    photos = [file for file in files if own_name.fullmatch(file.name)]
    for photo in photos:
        with photo.open("rb") as file:
            if MARK not in file.read(MARK_WITHIN_BYTES):
                raise _not_drawn(photo)
    return photos


def _refused(folder: Path, expected: str, found: str) -> InputError:
    return InputError(
        f"{folder}: expected {expected}, found {found}; --overwrite (overwrite=True) replaces what "
        "was drawn before"
    )


def _not_drawn(file: Path) -> InputError:
    return InputError(
        f"{file}: expected a file that this command drew, found one without its mark; draw into "
        "another folder (what an older version drew has no mark, either: remove that first)"
    )
