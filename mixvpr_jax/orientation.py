"""A photo's orientation, and its file without metadata.

Pillow refuses a whole photo for a fault in its EXIF, XMP or other metadata
(python-pillow/Pillow#8965). So only the orientation is read, malformed metadata is ignored, and the
decoder gets a file without any.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import ExifTags, Image

UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = "mixvpr_jax_turned"  # marks a turned image in Pillow's `info`
STATEMENTS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # in Pillow's `info`
MAX_TEXT_BYTES = 2**20  # of an inflated text
XMP_TAG = 700
ORIENTATION_IN_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\b")

# JPEG's markers without a segment, and the APP segments that a decoder reads: name, least size.
STANDALONE = {0x00, 0x01, *range(0xD0, 0xDA)}
START_OF_SCAN, APP_1 = 0xDA, 0xE1
HEEDED = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}

# Ancillary chunks of PNG that pixels depend on: transparency, and the frames of an animation.
PNG_PIXELS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}

# Tags of TIFF that describe how pixels are stored; Pillow refuses a format by 48129.
TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324),
    *(325, 332, 334, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532),
    *(*range(32995, 32999), 48129, 50674),
}
INTEGER_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # by type of tag


def separate(data: bytes) -> tuple[int, bytes | bytearray]:
    """Splits a file of any format into its orientation and the same pixels without metadata.

    The orientation is EXIF's 1 to 8; 1 is upright or unknown.
    """
    if data.startswith(b"\xff\xd8"):
        return _separate_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _separate_png(data)
    if data.startswith((b"II", b"MM")):
        return _separate_tiff(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _orientation_of_webp(data), data
    return UPRIGHT, data


def orientation_of(image: Image.Image) -> int:
    """The orientation (1 to 8) of an opened image whose pixels are loaded."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow's metadata readers raise many kinds
        value = None
    if isinstance(value, int):
        return value if value in TURNS else UPRIGHT
    exif, xmp = (image.info.get(name) for name in ("exif", "xmp"))
    return _stated(*(said if isinstance(said, bytes) else b"" for said in (exif, xmp)))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turns an image of this orientation upright and removes the orientation from its `info`."""
    if orientation not in TURNS:
        return image
    turned = image.transpose(TURNS[orientation])
    for name in STATEMENTS:
        turned.info.pop(name, None)
    turned.info[TURNED] = True
    return turned


def was_turned(image: Image.Image) -> bool:
    """Whether `upright` turned an image."""
    return TURNED in image.info


def _stated(exif: bytes, xmp: bytes) -> int:
    """The orientation that EXIF states, or else XMP."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    for entry in _entries(exif):
        if entry.tag == ExifTags.Base.Orientation and (value := _integer(exif, entry)) is not None:
            return value if value in TURNS else UPRIGHT
    said = ORIENTATION_IN_XMP.search(xmp)
    return int(said[1]) if said else UPRIGHT


class _Entry(NamedTuple):
    """An entry of a TIFF directory: its offset, tag, type, number of values and their offset."""

    at: int
    tag: int
    type: int
    length: int
    values_at: int
    order: str


def _entries(tiff: bytes) -> Iterator[_Entry]:
    """The entries of the first directory of a TIFF file or EXIF block, up to where it is cut."""
    order, version = {b"II": "<", b"MM": ">"}.get(tiff[:2]), tiff[2:4].strip(b"\0")
    if order is None or version not in (b"*", b"+"):
        return
    big = version == b"+"
    address, number = order + ("Q" if big else "I"), order + ("Q" if big else "H")
    entry, room = (order + "HHQ8x", 8) if big else (order + "HHI4x", 4)
    at = _number(address, tiff, 8 if big else 4)
    count = _number(number, tiff, at)
    if at is None or count is None:
        return
    start, size = at + struct.calcsize(number), struct.calcsize(entry)
    for index in range(min(count, max(0, len(tiff) - start) // size)):
        at = start + index * size
        tag, kind, values = struct.unpack_from(entry, tiff, at)
        inside = INTEGER_BYTES.get(kind, 0) * values <= room
        values_at = at + size - room if inside else _number(address, tiff, at + size - room)
        yield _Entry(at, tag, kind, values, values_at or 0, order)


def _integer(tiff: bytes, entry: _Entry) -> int | None:
    """An entry's first value; None if it is no integer or lies outside the data."""
    size = INTEGER_BYTES.get(entry.type)
    if size is None or not entry.length:
        return None
    return _number(entry.order + {1: "B", 2: "H", 4: "I", 8: "Q"}[size], tiff, entry.values_at)


def _number(kind: str, data: bytes, at: int | None) -> int | None:
    """One number; None if the data end before it."""
    if at is None or at + struct.calcsize(kind) > len(data):
        return None
    return struct.unpack_from(kind, data, at)[0]


def _separate_tiff(data: bytes) -> tuple[int, bytes | bytearray]:
    """Gives metadata entries the invalid type 0, which every reader skips."""
    xmp, blank = b"", bytearray(data)
    for entry in _entries(data):
        if entry.tag == XMP_TAG and INTEGER_BYTES.get(entry.type) == 1:
            xmp = data[entry.values_at : entry.values_at + entry.length]
        if entry.tag not in TIFF_PIXELS:
            blank[entry.at + 2 : entry.at + 4] = b"\0\0"
    return _stated(data, xmp), blank


def _separate_jpeg(data: bytes) -> tuple[int, bytes | bytearray]:
    """Blanks the names of metadata segments, so that every reader skips them."""
    exif, xmp, unheeded, at = [], b"", [], 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        start, end = at + 4, at + 2 + max(2, data[at + 2] << 8 | data[at + 3])
        if marker == START_OF_SCAN or end > len(data):
            break
        if marker == APP_1 and data.startswith(b"Exif\0\0", start):
            exif.append(data[start + 6 : end])
        elif marker == APP_1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start):
            xmp = data[start:end]
        if marker & 0xF0 == 0xE0:
            name, least = HEEDED.get(marker, (b"", 2**16))
            if end - start < least or not data.startswith(name, start):
                unheeded.append(slice(start, min(start + 4, end)))
        at = end
    if not unheeded:
        return UPRIGHT, data
    blank = bytearray(data)
    for name in unheeded:
        blank[name] = bytes(name.stop - name.start)
    return _stated(b"".join(exif), xmp), blank


def _separate_png(data: bytes) -> tuple[int, bytes]:
    """Drops the chunks that pixels do not depend on."""
    said: dict[bytes, bytes] = {}
    view, at = memoryview(data), 8
    kept = [view[:at]]
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind[:1].islower() and kind not in PNG_PIXELS:
            said |= _said_by_chunk(kind, data[at + 8 : end - 4])
        else:
            kept.append(view[at:end])
        at = end
    kept.append(view[at:])
    exif = said.get(b"exif") or _raw_profile(said.get(b"Raw profile type exif", b""))
    return _stated(exif, said.get(b"XML:com.adobe.xmp", b"")), b"".join(kept)


def _said_by_chunk(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """A chunk's keyword → text, or b"exif" → EXIF block."""
    if kind == b"eXIf":
        return {b"exif": content}
    keyword, _, text = content.partition(b"\0")
    if kind == b"zTXt":
        text = _inflated(text[1:])
    elif kind == b"iTXt":
        compressed, parts = text[:1] != b"\0", text[2:].split(b"\0", 2)
        text = _inflated(parts[-1]) if compressed else parts[-1]
    elif kind != b"tEXt":
        return {}
    return {keyword: text}


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """An EXIF block as ImageMagick writes it: an empty line, name, length, lines of hex digits."""
    digits = re.sub(rb"[^0-9A-Fa-f]", b"", b"".join(text.split(b"\n")[3:]))
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())


def _orientation_of_webp(data: bytes) -> int:
    """The orientation in EXIF or XMP that the header announces; Pillow ignores both on opening."""
    announced, said, at = data[20:21] if data[12:16] == b"VP8X" else b"", {}, 12
    while announced and at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in (b"EXIF", b"XMP "):
            said.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    exif = said.get(b"EXIF", b"") if announced and announced[0] & 8 else b""
    return _stated(exif, said.get(b"XMP ", b"") if announced and announced[0] & 4 else b"")
