"""Where and when a photo was taken: EXIF data, and times that are numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from PIL import ExifTags, Image

from mixvpr_jax.storage import AnyPath, OutOfReach, reaching

GPS = ExifTags.GPS
UNITS = {10: 0, 13: 3, 16: 6, 19: 9}  # digits of Unix times in s, ms, µs, ns, and those to cut off


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
        try:
            exif = Image.open(file).getexif()
            gps, camera = (exif.get_ifd(ifd) for ifd in (ExifTags.IFD.GPSInfo, ExifTags.IFD.Exif))
        except OutOfReach:
            raise
        except Exception:  # Pillow's metadata readers raise many kinds
            return Taken()
    latitude = _degrees(gps, GPS.GPSLatitude, GPS.GPSLatitudeRef, "NS", 90)
    longitude = _degrees(gps, GPS.GPSLongitude, GPS.GPSLongitudeRef, "EW", 180)
    position = None
    if latitude is not None and longitude is not None and (latitude or longitude):
        position = latitude, longitude
    heading, base = _number(gps.get(GPS.GPSImgDirection)), ExifTags.Base
    return Taken(
        position,
        heading % 360 if 0 <= heading <= 360 else None,
        _time(camera.get(base.DateTimeOriginal), camera.get(base.SubsecTimeOriginal))
        or _time(exif.get(base.DateTime), camera.get(base.SubsecTime)),
    )


def unix_seconds(text: str) -> float | None:
    """A Unix time in s (perhaps with a fraction), ms, µs or ns; None for other numbers and text.

    What begins with a zero counts frames.
    """
    found = re.fullmatch(r"([1-9]\d*)(\.\d+)?", text, re.ASCII)
    if found is None or (len(found[1]) not in UNITS):
        return None
    return float(text) / 10 ** UNITS[len(found[1])]


def _degrees(gps: Mapping[int, Any], tag: int, ref: int, sides: str, largest: int) -> float | None:
    """Degrees, minutes and seconds as one number; its sign is by the side, the first or second."""
    parts, side = gps.get(tag), gps.get(ref, "")
    text = side.decode("latin-1") if isinstance(side, bytes) else str(side)
    letter = text.strip("\0 ").upper()[:1]  # some write the whole word
    if not isinstance(parts, tuple) or len(parts) != 3 or letter not in tuple(sides):
        return None
    degrees = math.fsum(abs(_number(part)) / 60**at for at, part in enumerate(parts))
    return degrees * (1, -1)[sides.index(letter)] if degrees <= largest else None


def _number(value: Any) -> float:
    """A number that a photo can mean, or NaN; EXIF writes what it does not know as 0/0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    return number if abs(number) < 1e9 else math.nan


def _time(text: Any, fraction: Any) -> datetime | None:
    """`2026:11:27 12:00:00` and its fraction of a second, "25" for 0.25."""
    digits = str(fraction).strip("\0 ")
    try:
        time = datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:  # 0000:00:00, of a clock that was not set
        return None
    part = float(f"0.{digits}") if digits.isdecimal() and digits.isascii() else 0.0
    return time + timedelta(seconds=part)
