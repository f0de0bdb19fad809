"""What the names of images say: where they were taken, and in which order.

A name such as `@0550123.45@4180345.67@17@T@…@.jpg` gives UTM east and north in metres, and perhaps
the zone and its latitude band, as VPR-methods-evaluation and VPR-datasets-downloader write them.
Of a folder's name, a zone's code or word alone counts: an "@" there means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath

from mixvpr_jax.datasets.positions import BANDS, FARTHEST_M, fits_band
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

# Fields of VPR-datasets-downloader's names, which have so many of them at least.
ZONE, KEY, TILE, HEADING, TIME, NOTE, NUM_FIELDS = 3, 7, 8, 9, 13, 14, 15

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_OF_ZONE = r"0*([1-9]|[1-5]\d|60)(?:\.0)?\s*"  # 32.0 of pandas, too
_ZONE = re.compile(rf"{_OF_ZONE}(?:([{BANDS}])@[^@]*|@([{BANDS}]?))", re.ASCII | re.IGNORECASE)
_DEGREES = r"(?:(?:@-?\d{1,4}\.\d{3,}){2})?"  # latitude and longitude, or neither
_BEFORE_FRAME = re.compile(rf"^{_OF_ZONE}@?[{BANDS}]{_DEGREES}(?=@|$)", re.ASCII | re.IGNORECASE)
_UTM = r"(?:32([67])|258(?=2[89]|3[0-8])|269(?=[01]\d|2[0-3]))(0[1-9]|[1-5]\d|60)"
_SAID = r"[ _-]?(?:zone[ _-]?)?0*([1-9]|[1-5]\d|60)[ _-]?"
_CODE = re.compile(  # of lower case, and literal at first: a search of each path costs little then
    rf"epsg[:_ -]?(?:{_UTM}|(\d{{4,5}}))(?!\d)"
    rf"|utm(?<![a-z\d]utm){_SAID}([ns])(?:orth|outh)?(?![a-z\d])"  # hemispheres: UTM32N, utm_32n/
    rf"|utm(?<=@utm){_SAID}(?:@?([{BANDS.lower()}]))?(?=[@.])",  # UTM32U@, UTM32@U@, UTM32@
    re.ASCII,
)
# A whole field or folder: 32-U, Z32U, zone_32u, utm_5u. 1N or zone_1_N may be a street or a floor,
# 30s or 24h a time.
_ALONE = re.compile(
    rf"(?=\D*\d\d|utm)(?!(?-i:\d+[ _-]?[a-z]))(?:utm|z)?{_SAID}([{BANDS}])",
    re.ASCII | re.IGNORECASE,
)
_FRACTION = re.compile(r"([^.]*?)(\d+)\.(\d+)((?!\d)[^.]*)", re.ASCII)
FLOAT_DIGITS = 17  # of float64, at most
UNITS = {10: 0, 13: 3, 16: 6, 19: 9}  # digits of Unix times in s, ms, µs, ns, and those to cut off


def fields_of(path: PurePath | AnyPath) -> list[str]:
    """What is between the "@" of a name: nothing, east, north and so on."""
    return path.stem.split("@")


def position_of(path: AnyPath) -> tuple[float, float]:
    """East and north in metres, in a name's first two fields; raises InputError without them."""
    parts = fields_of(path)[1:3]
    if len(parts) < 2 or not all(map(_NUMBER.fullmatch, parts)):
        raise InputError(
            f"{path}: expected a name @utm_east@utm_north@…, in metres, or, without a position, "
            "one that does not begin with @"
        )
    east, north = map(float, parts)
    if not (abs(east) <= FARTHEST_M and abs(north) <= FARTHEST_M):
        raise InputError(f"{path}: expected metres on Earth in @utm_east@utm_north@")
    return east, north


def zone_of(path: AnyPath, north: float) -> str:
    """The UTM zone and latitude band in a name's third and fourth field, such as "17T".

    A downloader may leave out the band. Names of other forms may hold anything there: then a letter
    must fit the northing. Without a zone, `zone_of_code` of the whole path counts, or else a field
    or folder such as "32-U" or "zone_32U" whose band fits.
    """
    fields = fields_of(path)
    number, letter = (field.strip() for field in [*fields[ZONE:], "", ""][:2])
    found = _ZONE.fullmatch(f"{number}@{letter}")
    written = (found[2] or found[3]) if found else ""
    band = written.upper()
    zone = f"{found[1]}{band}" if found else ""
    if len(fields) >= NUM_FIELDS:
        if found is None and number[:1].isdecimal():
            raise InputError(
                f"{path}: expected a UTM zone from 1 to 60 and its latitude band, such as @32@U@, "
                f"or nothing in the third and fourth field, found @{number}@{letter}@"
            )
    elif not band or (written.islower() and not fits_band(band, north)):
        zone = ""  # fields of another meaning
    elif not fits_band(band, north):
        raise InputError(
            f"{path}: expected a northing in latitude band {band} of UTM zone {zone}, found "
            f"{north:,.0f} m; where these fields are no zone, leave the third one empty: "
            "@utm_east@utm_north@@…"
        )
    texts = [*path.parent.parts, number]
    return zone or zone_of_code(str(path), north) or _zone_alone(texts, north)


def _zone_alone(texts: Sequence[str], north: float) -> str:
    """The last of the texts that is a zone with its band and nothing else, where the band fits."""
    for found in filter(None, map(_ALONE.fullmatch, reversed(texts))):
        if fits_band(band := found[2].upper(), north):
            return f"{found[1]}{band}"
    return ""


def zone_of_code(text: str, north: float) -> str:
    """The UTM zone of the last EPSG code or "UTM32N" in a text, or another grid's name (EPSG27700).

    WGS 84, ETRS89 and NAD83 agree within metres. The northing, in metres, tells the band, as codes
    tell the hemisphere alone; S is a band where it fits. "" where the text holds none of these.
    """
    if not (codes := list(_CODE.finditer(text.lower()))):
        return ""
    half, coded, other, number, side, alone, band = codes[-1].groups("")
    if other:
        return f"EPSG{other}"
    letters = band if alone else side + (BANDS[:10] if half == "7" or side == "s" else BANDS[10:])
    fitting = (letter for letter in letters.upper() if fits_band(letter, north))
    return f"{int(coded or number or alone)}{next(fitting, '')}"


# The order of frames ------------------------------------------------------------------------------


def frames_near(paths: Sequence[PurePath], frames: int) -> list[list[int]]:
    """For each photo the indices of those up to so many frames before and after it, and its own.

    Frames are a folder's photos in the order of their names, of which a position, @east@north@,
    is no part: by time where all are Unix times or seconds, else with numbers by value.

    Raises:
        InputError: Names that hold a position, and nothing else that orders them.
    """
    folders: dict[PurePath, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    near: list[list[int]] = [[]] * len(paths)
    for members in folders.values():
        order = _in_order([paths[index] for index in members])
        for place, member in enumerate(order):
            some = order[max(place - frames, 0) : place + frames + 1]
            near[members[member]] = [members[other] for other in some]
    return near


def _in_order(paths: Sequence[PurePath]) -> list[int]:
    """The indices of frames, first to last."""
    times, others = zip(*map(_frame, paths), strict=True)
    times = _with_equal_fractions(times)
    keys = list(zip(map(by_value, times), map(by_value, others), strict=True))
    order = sorted(range(len(paths)), key=keys.__getitem__)
    for one, other in pairwise(order):
        if paths[one].name.startswith("@") and keys[one] == keys[other]:
            raise InputError(
                f"{paths[one]}: expected a frame's number or time after the position in each "
                "name (@utm_east@utm_north@frame@), by which frames are ordered, found none that "
                f"tells it from {paths[other].name}"
            )
    return order


def _frame(path: PurePath) -> tuple[str, str]:
    """A frame's time or number, by its name, and what else tells it from others."""
    if not path.name.startswith("@"):
        return path.stem, ""
    fields = fields_of(path)
    if len(fields) >= NUM_FIELDS:
        return fields[TIME], "@".join(fields[field] for field in (KEY, TILE, NOTE))
    return _BEFORE_FRAME.sub("", "@".join(fields[ZONE:])).strip("@"), ""


def _with_equal_fractions(texts: Sequence[str]) -> list[str]:
    """Pads the digits after each text's point to one length, so that they compare as integers.

    Fractions are padded on the right, since Python drops their trailing zeros. Counts (a sequence
    and its frame, ROS's seconds and nanoseconds) are padded on the left; they are recognised by a
    trailing zero, or by more digits than a float has.
    """
    found = [_FRACTION.fullmatch(text) for text in texts]
    numbers = [one for one in found if one]
    longest = max((len(one[3]) for one in numbers), default=0)
    if all(len(one[3]) == longest for one in numbers):
        return list(texts)
    others = [one for one in numbers if one[3] != "0"]
    no_float = any(
        one[3][-1] == "0" or len((one[2] + one[3]).lstrip("0")) > FLOAT_DIGITS for one in others
    )
    are_counts = no_float and not any(one[3][0] == "0" for one in others)
    size = -(-longest // 3) * 3  # of milliseconds, microseconds or nanoseconds
    pad = str.rjust if are_counts else str.ljust
    pairs = zip(texts, found, strict=True)
    return [f"{m[1]}{m[2]}.{pad(m[3], size, '0')}{m[4]}" if m else text for text, m in pairs]


def by_value(name: str) -> list[object]:
    """What names sort by: frame2 comes before frame10."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def unix_times(texts: Sequence[str]) -> list[float | None]:
    """`unix_seconds` of the frames of one camera, which write their fractions alike."""
    return [unix_seconds(text) for text in _with_equal_fractions(texts)]


def unix_seconds(text: str) -> float | None:
    """A Unix time in s (perhaps with a fraction), ms, µs or ns; None for other numbers and text.

    What begins with a zero counts frames, and with 19 or 20 it tells the year, as in 2019070512:
    as a Unix time it would be later than 2030.
    """
    found = re.fullmatch(r"(?!0|19|20)(\d+)(\.\d+)?", text, re.ASCII)
    if found is None or len(found[1]) not in UNITS:
        return None
    return float(text) / 10 ** UNITS[len(found[1])]
