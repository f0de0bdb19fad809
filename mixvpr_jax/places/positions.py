"""Where and when photos were taken: by a table, by their names, or by their EXIF data."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from utm import to_latlon
from utm.error import OutOfRangeError

from mixvpr_jax.datasets.names import (
    HEADING,
    NUM_FIELDS,
    TIME,
    fields_of,
    position_of,
    unix_seconds,
    zone_of,
    zone_of_code,
)
from mixvpr_jax.datasets.positions import fits_band
from mixvpr_jax.errors import InputError
from mixvpr_jax.exif import Taken, read_exif
from mixvpr_jax.listing import composed, read_text
from mixvpr_jax.storage import AnyPath, as_path, reaching

FIELDS = {
    "name": (
        *("photo", "image", "name", "file", "filename", "path"),  # photo: photos.csv has both
        *("imagename", "imagefile", "imagepath", "filepath", "img", "imgname", "imgpath"),
    ),
    "latitude": ("lat", "latitude", "latitudedecimaldegrees"),  # Pix4D's
    "longitude": ("lon", "lng", "longitude", "long", "longitudedecimaldegrees"),
    "east": ("east", "easting", "utmeast"),
    "north": ("north", "northing", "utmnorth"),
    "zone": ("zone", "utmzone"),
    "heading": ("heading", "northdeg", "bearing"),
    "time": ("timestamp", "datetime", "date", "time"),  # beside a date, a time is one of a day
}
"""The titles of columns in a table, by their letters and digits; the first that is there counts."""
DIGITS = re.compile(r"(1[89]|20)\d{4}(\d\d|\d{6}(\d\d)?)?|(19|20)\d{8}", re.ASCII)
"""A time in digits, from the year on, of four digits, to any unit from months down to seconds."""
MISSING = {"", "na", "nan", "nat", "none", "null"}
"""What R, NumPy, pandas, Python and databases write in a cell without a value, in lower case."""
SIDE = re.compile("(gps)?(lat|lon|lng|ns|ew).*|.*(ref|hem).*")
"""The titles of columns that may tell the side of the equator or of Greenwich."""
ORIGIN_RADIANS = 0.05  # there is no land so near to latitude and longitude 0

logger = logging.getLogger(__name__)


def find_positions(
    folder: AnyPath, paths: Sequence[AnyPath], table_file: str | None, zone: str | None
) -> list[Taken]:
    """What is known of each photo, by the table, or else its name, or else EXIF."""
    if table_file is None:
        return [
            _of_name(path, zone) if path.name.startswith("@") else read_exif(path) for path in paths
        ]
    table = _read_table(as_path(table_file), zone)
    names = [relative(path, folder) for path in paths]
    table = _by_photo(table, names)
    if table.keys().isdisjoint(names):  # absolute, or from the folder that holds the photos on
        roots = tuple(f"{root}/" for root in (folder, folder.resolve(), folder.resolve().name))
        below = {_below(roots, name): taken for name, taken in table.items()}
        table = _by_photo(below, names) if len(below) == len(table) else table
    if table.keys().isdisjoint(names):
        raise InputError(
            f"{table_file}: expected names relative to {folder}, such as "
            f"{min(names)}, found {next(iter(table), 'no row')}"
        )
    if strange := sorted(table.keys() - set(names)):
        logger.warning(
            "note: %s: %d rows name no photo of %s, the first %s",
            *(table_file, len(strange), folder, strange[0]),
        )
    return [table.get(name, Taken()) for name in names]


def _below(roots: Sequence[str], name: str) -> str:
    root = next(filter(name.replace("\\", "/").startswith, roots), "")
    return name[len(root) :]


def relative(path: AnyPath, folder: AnyPath) -> str:
    """A photo's name in tables."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _by_photo(table: dict[str, Taken], names: Sequence[str]) -> dict[str, Taken]:
    """Rows by the photos' names, of which a Mac or Windows may have written another form."""

    def key(name: str) -> str:
        return PurePosixPath(composed(name).replace("\\", "/")).as_posix()

    photos = {key(name): name for name in names}
    found = {photos.get(key(name), name): taken for name, taken in table.items()}
    return found if len(photos) == len(names) and len(found) == len(table) else table


def _of_name(path: AnyPath, zone: str | None) -> Taken:
    """By `@utm_east@utm_north@…`; VPR-datasets-downloader adds heading and month, as in 201907."""
    east, north = position_of(path)
    named = zone_of(path, north)
    zone = zone and (zone_of_code(f"@{zone}@", north) or zone.strip().upper())
    if zone and (named[:4] in ("", "EPSG") or zone[:-1].strip() == named):
        named = zone  # names may hold a zone without its band, or another grid's code
    position = _to_degrees(path, east, north, named)
    heading = time = None
    if len(fields := fields_of(path)) >= NUM_FIELDS:
        with suppress(InputError):  # names of other forms may hold anything there
            heading = _to_heading(path, fields[HEADING])
        with suppress(InputError):
            time = _to_time(path, fields[TIME])
    return Taken(position, heading and heading % 360, _local(time, position))


def _to_degrees(source: object, east: float, north: float, zone: str | None) -> tuple[float, float]:
    if not zone:
        raise InputError(f"{source}: expected the UTM zone of metres; give it, such as --zone 32U")
    zone = zone_of_code(f"@{zone}@", north) or zone
    if not (found := re.fullmatch(r"(\d\d?)\s*([C-HJ-NP-X])", zone.strip().upper(), re.ASCII)):
        raise InputError(f"{source}: expected a UTM zone with its band, as in 32U, found {zone}")
    at_sea = int(found[1]) in (19, 21)  # where Patagonia and the Falklands have such northings
    if found[2] == "S" and (at_sea or not fits_band("S", north)):  # the south, as GIS have it
        raise InputError(
            f"{source}: expected land in latitude band S (32 to 40 degrees north) of UTM zone "
            f"{zone}, found a northing of {north:,.0f} m; south of the equator the bands are C to M"
        )
    try:
        latitude, longitude = to_latlon(east, north, int(found[1]), found[2])
        # N may be the northern hemisphere, as GIS have it; the letter of a next band does no harm.
        if found[2] > "N" and not fits_band(found[2], north, slack=4):
            raise OutOfRangeError(f"far from band {found[2]}, as of a national grid; convert them")
    except OutOfRangeError as error:
        raise InputError(
            f"{source}: expected metres of UTM zone {zone}, found {east:.9g}, {north:.9g}: {error}"
        ) from None
    return float(latitude), float(longitude)


def _read_table(file: AnyPath, zone: str | None) -> dict[str, Taken]:
    """Name → what its row says; a row without a position says that there is none."""
    with reaching(file):
        if not file.is_file():
            raise InputError(f"{file}: expected a table of positions, found no such file")
        text = read_text(file)
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # also of old Macs
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(
        io.StringIO(text), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    try:
        return _parse_table(file, rows, zone)
    except csv.Error as error:  # a quotation mark that none closes, say
        raise InputError(
            f"{file}: line {rows.line_num}: expected comma-separated values, found: {error}"
        ) from None


def _parse_table(file: AnyPath, rows: csv.DictReader[str], zone: str | None) -> dict[str, Taken]:
    given = [title.strip().lower() for title in rows.fieldnames or ()]
    titles = ["".join(filter(str.isalnum, title)) for title in given]
    columns = {
        field: there[0]
        for field, several in FIELDS.items()
        if (there := [title for title in several if title in titles])
    }
    if twice := [title for title in columns.values() if titles.count(title) > 1]:
        raise InputError(f"{file}: expected each column once, found {twice[0]} again")
    rows.fieldnames = titles
    in_degrees = {"latitude", "longitude"} <= columns.keys()
    if "name" not in columns or not (in_degrees or {"east", "north"} <= columns.keys()):
        raise InputError(
            f"{file}: expected columns image, lat and lon (or east, north and zone), found "
            f"{', '.join(given) or 'none'}"
        )
    pairs = zip(given, titles, strict=True)
    others = [title for title, plain in pairs if title and plain not in columns.values()]
    for field in ("heading", "time"):
        if others and field not in columns:
            logger.warning(
                "note: %s: no %s, as no column is called %s (not read: %s)",
                *(file, field, " or ".join(FIELDS[field]), ", ".join(others)),
            )
    sides = [title for title in titles if SIDE.fullmatch(title) and title not in columns.values()]
    found: dict[str, Taken] = {}
    for row in rows:
        where, beyond = f"{file}: line {rows.line_num}", row.pop(None, [])
        if any(map(str.strip, beyond)):
            raise InputError(
                f"{where}: expected {len(titles)} cells, found {len(titles) + len(beyond)}; write "
                "decimals with a point, and cells that hold a separator in quotation marks"
            )
        cells = {field: (row[title] or "").strip() for field, title in columns.items()}
        name = PurePosixPath(cells["name"]).as_posix()
        if not any(cells.values()):  # a blank row, as spreadsheets append
            continue
        if not cells["name"] or name in found:
            what = f"{name} again" if cells["name"] else "no name"
            raise InputError(f"{where}: expected each photo once, found {what}")
        heading = _to_heading(where, cells.get("heading", ""))
        time, position = _to_time(where, cells.get("time", "")), _position(where, cells, zone)
        found[name] = Taken(position, heading, _local(time, position))
        if in_degrees and position:
            _require_signs(where, position, {title: row[title] or "" for title in sides})
    if in_degrees:
        _refuse_radians(file, [one.position for one in found.values() if one.position is not None])
    return _with_headings(file, found)


def _require_signs(where: str, position: tuple[float, float], sides: Mapping[str, str]) -> None:
    """Refuses degrees above 0 beside S or W, as EXIF and NMEA have them."""
    signs = dict(zip("SW", position, strict=True))
    for title, cell in sides.items():
        side = cell.strip().upper()
        if side in ("S", "W", "SOUTH", "WEST") and signs[side[0]] > 0:
            raise InputError(
                f"{where}: expected degrees south and west below 0, found {signs[side[0]]:g} with "
                f"{cell} in column {title}; give them signs, and leave that column out"
            )


def _refuse_radians(file: AnyPath, positions: Sequence[tuple[float, float]]) -> None:
    """Refuses what would be degrees of the ocean, but for those around a simulator's origin."""
    farthest = [max(map(abs, each)) for each in zip(*positions, strict=True)] or [math.inf] * 2
    if farthest[0] <= math.pi / 2 and farthest[1] <= math.pi and max(farthest) > ORIGIN_RADIANS:
        raise InputError(
            f"{file}: expected latitude and longitude in degrees, found what look like radians "
            "({:g}, {:g}); convert them, and headings, too".format(*positions[0])
        )


def _with_headings(file: AnyPath, found: Mapping[str, Taken]) -> dict[str, Taken]:
    """With headings from 0 to 360; if none but -1 is below 0, as in our own output, it is none."""
    given = {one.heading for one in found.values() if one.heading is not None}
    if {heading for heading in given if heading < 0} == {-1.0}:
        given.remove(-1.0)
    low, high = min(given, default=0.0), max(given, default=0.0)
    if -math.pi <= low < high - 1 and high <= math.tau and not all(map(float.is_integer, given)):
        logger.warning(
            "note: %s: headings from %g to %g are taken for degrees from north, clockwise; convert "
            "them if they are radians",
            *(file, low, high),
        )
    turned: dict[float | None, float] = {heading: heading % 360 for heading in given}
    return {name: replace(one, heading=turned.get(one.heading)) for name, one in found.items()}


def _position(where: str, cells: Mapping[str, str], zone: str | None) -> tuple[float, float] | None:
    in_degrees = "latitude" in cells and "longitude" in cells
    both = ("latitude", "longitude") if in_degrees else ("east", "north")
    texts = [cells[field] for field in both]
    if {text.lower() for text in texts} <= MISSING:
        return None
    try:
        first, second = map(_to_number, texts)
    except ValueError:
        raise InputError(f"{where}: expected two numbers, found {texts[0]}, {texts[1]}") from None
    if not in_degrees:
        own = cells.get("zone", "")
        return _to_degrees(where, first, second, zone if own.lower() in MISSING else own)
    if not (abs(first) <= 90 and abs(second) <= 180):
        raise InputError(
            f"{where}: expected latitude and longitude in degrees, found {first:g}, {second:g}"
        )
    return (first, second) if first or second else None  # as EXIF has it before satellites


def _to_number(text: str) -> float:
    """A number with a decimal point or comma; raises ValueError."""
    return float(text.replace(",", "."))


def _to_heading(where: object, text: str) -> float | None:
    """Degrees, from -180 to 360, or nothing."""
    if text.lower() in MISSING:
        return None
    with suppress(ValueError):
        if -180 <= (heading := _to_number(text)) <= 360:
            return heading
    raise InputError(f"{where}: expected a heading from 0 to 360 degrees, found {text}")


def _to_time(where: object, text: str) -> datetime | None:
    """ISO 8601, EXIF's form, a month, a time in digits (201907), a Unix time, or nothing."""
    if text.lower() in MISSING:
        return None
    of_digits = "%Y%m%d%H%M%S"[: len(text) - 2]
    for form in (of_digits,) if DIGITS.fullmatch(text) else ("%Y:%m:%d %H:%M:%S", "%Y-%m"):
        with suppress(ValueError):
            return datetime.strptime(text, form)
    if (seconds := unix_seconds(text)) is not None:
        return datetime.fromtimestamp(seconds, UTC)
    if not re.fullmatch(r"[\d.,]+", text):  # of digits alone it would take one for the letter T
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    raise InputError(f"{where}: expected a time, such as 2026-11-27T12:00:00, found {text}")


def _local(time: datetime | None, position: tuple[float, float] | None) -> datetime | None:
    """By a clock of the place: UTC becomes solar time there, so that a drive is of one day."""
    if time is None:
        return None
    if position and time.utcoffset() == timedelta():
        with suppress(OverflowError):  # at the first and the last year
            time += timedelta(hours=position[1] / 15)
    return time.replace(tzinfo=None)
