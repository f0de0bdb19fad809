"""Where and when a photo was taken, by its EXIF data."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta

from PIL import ExifTags

from mixvpr_jax.orientation import JPEG_START, entries, parts, start_of_scan
from mixvpr_jax.storage import AnyPath, reaching

GPS, BASE = ExifTags.GPS, ExifTags.Base
HEAD_BYTES = 2**20  # of a JPEG: they hold its EXIF, unless large previews stand there, too
MOST_BYTES = 64  # of a value: eight ratios, or a text

Directory = dict[int, tuple[str, memoryview]]
"""Tag → a value's `struct` format, and the values."""


@dataclass(frozen=True)
class Taken:
    """What is known of a photo; None for what is not.

    Attributes:
        position: Latitude and longitude in degrees (WGS 84).
        heading: Where the camera looked, in degrees from north, clockwise; 0 to 360.
        time: By the camera's clock, which knows no time zone.
    """

    position: tuple[float, float] | None = None
    heading: float | None = None
    time: datetime | None = None


def read_exif(path: AnyPath) -> Taken:
    """Reads a photo's EXIF data; those that cannot be understood count as missing.

    A position of exactly 0, 0 counts as missing: cameras write it while they search for satellites.
    """
    with reaching(path), path.open("rb") as file:
        data = file.read(HEAD_BYTES)
        if not data.startswith(JPEG_START) or start_of_scan(data) is None:
            data += file.read()
    block = parts(data)[0]
    first = _directory(block)
    pointers = ExifTags.IFD.GPSInfo, ExifTags.IFD.Exif
    gps, camera = (
        _directory(block, int(at)) if (at := _number(first, tag)) > 0 else {} for tag in pointers
    )
    latitude = _degrees(gps, GPS.GPSLatitude, "NS", 90)
    longitude = _degrees(gps, GPS.GPSLongitude, "EW", 180)
    position = None
    if latitude is not None and longitude is not None and (latitude or longitude):
        position = latitude, longitude
    heading = _number(gps, GPS.GPSImgDirection)
    return Taken(
        position,
        heading % 360 if 0 <= heading <= 360 else None,
        _time(_text(camera, BASE.DateTimeOriginal), _text(camera, BASE.SubsecTimeOriginal))
        or _time(_text(first, BASE.DateTime), _text(camera, BASE.SubsecTime)),
    )


def _directory(block: bytes, start: int = 0) -> Directory:
    return {tag: (code, values[:MOST_BYTES]) for _, tag, code, values in entries(block, start)}


def _numbers(found: Directory, tag: int) -> list[float]:
    """Numbers that a photo can mean, or NaN; EXIF writes what it does not know as 0/0."""
    code, values = found.get(tag, ("c", memoryview(b"")))
    if code.endswith("c") or not values:  # a text, or nothing
        return []
    ratios = ((number, *below, 1)[:2] for number, *below in struct.iter_unpack(code, values))
    numbers = (number / below if below else math.nan for number, below in ratios)
    return [number if abs(number) < 1e9 else math.nan for number in numbers]


def _number(found: Directory, tag: int) -> float:
    return next(iter(_numbers(found, tag)), math.nan)


def _text(found: Directory, tag: int) -> str:
    _, values = found.get(tag, ("", b""))
    return bytes(values).decode("latin-1").strip("\0 ")


def _degrees(gps: Directory, tag: int, sides: str, largest: int) -> float | None:
    """Degrees, perhaps with minutes and seconds, as one number; a side tells its sign."""
    parts, side = _numbers(gps, tag), _text(gps, tag - 1).upper()[:1]  # some write the whole word
    if not 1 <= len(parts) <= 3 or not side or side not in sides:
        return None
    degrees = math.fsum(abs(part) / 60**at for at, part in enumerate(parts))
    return degrees * (1, -1)[sides.index(side)] if degrees <= largest else None


def _time(text: str, fraction: str) -> datetime | None:
    """`2026:11:27 12:00:00` and its fraction of a second, "25" for 0.25."""
    try:
        time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except ValueError:  # 0000:00:00, of a clock that was not set
        return None
    part = float(f"0.{fraction}") if fraction.isdecimal() and fraction.isascii() else 0.0
    return time + timedelta(seconds=part)
