"""`mixvpr places PHOTOS --output DATA`."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mixvpr_jax.checks import only, require_positive, to_plain_numbers
from mixvpr_jax.errors import InputError, importing
from mixvpr_jax.storage import AnyPath, as_path, atomic_folder, is_local, reaching
from mixvpr_jax.writable import require_writable

if TYPE_CHECKING:
    from mixvpr_jax.exif import Taken
    from mixvpr_jax.places.grouping import Place

UNKNOWN = -1  # a heading
NO_TEXT = ("na", "nan", "null", "none", "true", "false")  # nor are numbers
PHOTOS = "A folder of photos, searched at any depth."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlacesConfig:
    """What to make, and what makes a place.

    Attributes:
        output: Folder to make: Dataframes, Images, and photos.csv with what became of each photo.
        positions: A table with the columns image, lat and lon (or east, north and zone), and
            perhaps heading (degrees from north) and time; by default names
            (@utm_east@utm_north@…) and EXIF tell.
        zone: UTM zone and latitude band (32U), or its EPSG code, of metres that come without.
        name: Name of the cities; that of the folder of photos if not given.
        radius_m: How far a place's photos lie from the one in their middle, in metres.
        heading_degrees: Width of the sector of a place's headings, centred on the middle photo's.
        apart_m: Least distance of two places of one city whose headings differ by no more than
            heading_degrees, in metres.
        min_images: Places with fewer photos are left out.
        min_days: Places photographed on fewer days are left out.
    """

    output: str
    positions: str | None = None
    zone: str | None = None
    name: str | None = None
    radius_m: float = 10.0
    heading_degrees: float = 60.0
    apart_m: float = 40.0
    min_images: int = 4
    min_days: int = 1

    def __post_init__(self) -> None:
        to_plain_numbers(self)
        require_positive(self, "radius_m", "heading_degrees", "apart_m", "min_images", "min_days")
        if self.heading_degrees > 360:
            raise InputError(f"heading_degrees: expected at most 360, found {self.heading_degrees}")
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9-]+", self.name):
            raise InputError(f"name: expected letters, digits and hyphens, found {self.name}")


def places(
    photos: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PHOTOS", help=PHOTOS, help_behavior_hint="(required)"),
    ],
    config: Annotated[PlacesConfig, tyro.conf.arg(name="")],
) -> None:
    """Makes training data in GSV-Cities' form of photos whose positions are known.

    Photos near one another that look the same way make a place. They become hard links where they
    lie on the disk of the output, and copies elsewhere.
    """
    made, known = make_places(as_path(only("PHOTOS", photos)), config)
    listed, root = Path(config.output, "photos.csv"), shlex.quote(config.output)
    used, num_cities = sum(len(place.photos) for place in made), len({place.city for place in made})
    print(
        f"{known}: {listed} lists them",
        f"{len(made):,} places of {used:,} photos; cities: {num_cities}",
        f"train on them: mixvpr train finetune --data.root {root} --workdir RUN",
        sep="\n",
    )


def make_places(photos: AnyPath, config: PlacesConfig) -> tuple[Sequence[Place], str]:
    """Makes training data of a folder of photos.

    Returns the places, and how many photos have a position, a heading and a time, in words.
    """
    with importing():
        from mixvpr_jax.datasets.folders import list_images
        from mixvpr_jax.places.grouping import MIN_PLACES, group
        from mixvpr_jax.places.positions import find_positions

    output = as_path(config.output)
    if not isinstance(output, Path):
        raise InputError(f"output: expected a folder of this machine, found {output}")
    if output.exists():
        raise InputError(f"{output}: expected no such folder, found one; choose another")
    if is_local(photos) and output.resolve().is_relative_to(Path(photos).resolve()):
        raise InputError(
            f"{output}: expected a folder outside of {photos}, since its images would be found "
            "there as photos; choose another"
        )
    require_writable(output, "the places")
    paths = list_images(photos)
    taken = find_positions(photos, paths, config.positions, config.zone)
    if all(one.position is None for one in taken):
        raise InputError(
            f"{photos}: expected photos with a position (EXIF, @utm_east@utm_north@ names, or "
            f"--positions FILE.csv), found none among {len(paths):,}"
        )
    if all(one.heading is None for one in taken):
        logger.warning(
            "note: %s: no photo has a heading; photos that look different ways may share a place",
            photos,
        )
    options = ("radius_m", "heading_degrees", "apart_m", "min_images", "min_days")
    places = group(taken, **{name: getattr(config, name) for name in options})
    known, num_cities = _known(taken), len({place.city for place in places})
    if len(places) < MIN_PLACES:
        raise InputError(
            f"{photos}: expected {MIN_PLACES} places of {config.min_images} photos or more that "
            f"lie {config.apart_m:g} m apart, found none such ({known}); change "
            "--radius-m, --apart-m, --heading-degrees, --min-images or --min-days"
        )
    name = config.name or re.sub(r"[^A-Za-z0-9-]+", "-", photos.resolve().name).strip("-")
    cities = [_as_text(f"{name or 'Places'}{number or ''}") for number in range(num_cities)]
    with atomic_folder(output) as temporary:
        _write(temporary, cities, photos, paths, taken, places)
    return places, known


def _known(taken: Sequence[Taken]) -> str:
    placed = [one for one in taken if one.position is not None]
    headings = sum(one.heading is not None for one in placed)
    times = sum(one.time is not None for one in placed)
    return (
        f"{len(placed):,} of {len(taken):,} photos have a position, {headings:,} of them a "
        f"heading, {times:,} a time"
    )


def _write(
    output: Path,
    cities: Sequence[str],
    folder: AnyPath,
    paths: Sequence[AnyPath],
    taken: Sequence[Taken],
    places: Sequence[Place],
) -> None:
    """Writes a table a city, the photos, and which image each photo became."""
    from mixvpr_jax.data.gsv_cities import COLUMNS, Row
    from mixvpr_jax.listing import write_csv
    from mixvpr_jax.places.positions import relative

    images: dict[int, str] = {}
    (output / "Dataframes").mkdir()
    for number, city in enumerate(cities):
        (output / "Images" / city).mkdir(parents=True)
        table: list[Sequence[object]] = [COLUMNS]
        for place in (place for place in places if place.city == number):
            for index in place.photos:
                row = _row(place.place_id, taken[index], city, _as_text(f"{index:06d}"))
                table.append(row)
                images[index] = Row.read(tuple(map(str, row)), image="").name
                _copy(paths[index], output / images[index])
        write_csv(output / "Dataframes" / f"{city}.csv", table)
    told: list[Sequence[object]] = [("photo", "lat", "lon", "heading", "time", "image")]
    for index, (path, one) in enumerate(zip(paths, taken, strict=True)):
        known = *(one.position or ("", "")), one.heading, one.time and one.time.isoformat()
        told.append((relative(path, folder), *known, images.get(index, "")))
    write_csv(output / "photos.csv", told)


def _row(place_id: int, taken: Taken, city: str, panoid: str) -> tuple[object, ...]:
    """An image in GSV-Cities' columns; an unknown year and month are 0."""
    assert taken.position is not None
    year, month = (taken.time.year, taken.time.month) if taken.time else (0, 0)
    heading = UNKNOWN if taken.heading is None else round(taken.heading) % 360
    latitude, longitude = (round(degrees, 7) for degrees in taken.position)
    return place_id, year, month, heading, city, latitude, longitude, panoid


def _as_text(cell: str) -> str:
    """With a letter before what pandas, in the official loader, would not take for text."""
    try:
        float(cell)
    except ValueError:
        return f"p{cell}" if cell.strip("-").lower() in NO_TEXT else cell
    return f"p{cell}"


def _copy(source: AnyPath, target: Path) -> None:
    with reaching(source):
        if not is_local(source):
            target.write_bytes(source.read_bytes())
            return
    try:
        target.hardlink_to(Path(source).resolve())
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)
