"""A photo's orientation, and its file without metadata.

Pillow refuses a whole photo for a fault in its EXIF, XMP or other metadata
(python-pillow/Pillow#8965). So only the orientation is read, malformed metadata is ignored, and the
decoder gets a file without any.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

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

# Tags of TIFF that describe which pixels are stored, and how; Pillow refuses a format by 48129.
TIFF_PIXELS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323),
    *(324, 325, 332, 334, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532),
    *(*range(32995, 32999), 48129, 50674),
}
INTEGER_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 16: 8, 17: 8}  # by type of tag


def separate(data: bytes) -> tuple[int, bytes | bytearray]:
    """Splits a JPEG, PNG or TIFF file into its orientation and the same pixels without metadata.

    The orientation is EXIF's 1 to 8; 1 is upright or unknown. Other formats pass unchanged: Pillow
    reads no metadata of theirs on opening.
    """
    if data.startswith(b"\xff\xd8"):
        return _separate_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _separate_png(data)
    if data.startswith((b"II", b"MM")):
        return _separate_tiff(data)
    return UPRIGHT, data


def has_directory(data: bytes) -> bool:
    """Whether data are a TIFF file whose first directory is there."""
    return next(_entries(data), None) is not None


def orientation_of(image: Image.Image) -> int:
    """The orientation (1 to 8) of an opened image whose pixels are loaded."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow's metadata readers raise many kinds
        value = None
    if isinstance(value, int):
        return value if value in TURNS else UPRIGHT
    return orientation_in(image.info)


def orientation_in(info: Mapping[Any, Any]) -> int:
    """The orientation (1 to 8) that EXIF or XMP in Pillow's `info` state, malformed or not."""
    exif, xmp = (info.get(name) for name in ("exif", "xmp"))
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


def _stated(exif: bytes | bytearray, xmp: bytes) -> int:
    """The orientation that EXIF states, or else XMP."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    for _, tag, size, values in _entries(exif):
        if tag == ExifTags.Base.Orientation and len(values) >= size > 0:
            value = int.from_bytes(values[:size], "little" if exif.startswith(b"I") else "big")
            return value if value in TURNS else UPRIGHT
    said = ORIENTATION_IN_XMP.search(xmp)
    return int(said[1]) if said else UPRIGHT


def _entries(tiff: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """The first directory of a TIFF file or EXIF block, up to where it is cut.

    An entry is its offset, its tag, the bytes of an integer (0 for another type), and the integers.
    """
    order, version = {b"II": "<", b"MM": ">"}.get(tiff[:2]), tiff[2:4].strip(b"\0")
    if order is None or version not in (b"*", b"+"):
        return
    big = version == b"+"
    kinds = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    pointer, number, entry = (order + kind for kind in kinds)
    room = struct.calcsize(pointer)
    try:
        (start,) = struct.unpack_from(pointer, tiff, room)
        (count,) = struct.unpack_from(number, tiff, start)
    except (struct.error, OverflowError, IndexError):  # beyond the end
        return
    head, view = struct.calcsize(entry), memoryview(tiff)
    first, step = start + struct.calcsize(number), head + room
    for at in range(first, len(tiff) - step + 1, step)[:count]:
        tag, kind, length = struct.unpack_from(entry, tiff, at)
        size, values_at = INTEGER_BYTES.get(kind, 0), at + head
        if size * length > room:
            (values_at,) = struct.unpack_from(pointer, tiff, values_at)
        yield at, tag, size, view[values_at : values_at + size * length]


def _separate_tiff(data: bytes) -> tuple[int, bytearray]:
    """Gives metadata entries the invalid type 0, which every reader skips."""
    xmp, blank = b"", bytearray(data)
    for at, tag, size, values in _entries(data):
        if tag == XMP_TAG and size == 1:
            xmp = bytes(values)
        if tag not in TIFF_PIXELS:
            blank[at + 2 : at + 4] = b"\0\0"
    return _stated(data, xmp), blank


def _separate_jpeg(data: bytes) -> tuple[int, bytearray]:
    """Blanks the names of metadata segments, so that every reader skips them."""
    exif, xmp, blank, at = bytearray(), b"", bytearray(data), 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        start, end = at + 4, at + 2 + max(2, data[at + 2] << 8 | data[at + 3])
        if marker == START_OF_SCAN or end > len(data):
            break
        if marker == APP_1 and data.startswith(b"Exif\0\0", start):
            exif += data[start + 6 : end]
        elif marker == APP_1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start):
            xmp = data[start:end]
        name, least = HEEDED.get(marker, (b"", 2**16))
        heeded = end - start >= least and data.startswith(name, start)
        if marker & 0xF0 == 0xE0 and not heeded:
            stop = min(start + 4, end)
            blank[start:stop] = bytes(stop - start)
        at = end
    return _stated(exif, xmp), blank


def _separate_png(data: bytes) -> tuple[int, bytes]:
    """Drops the chunks that pixels do not depend on."""
    said: dict[bytes, bytes] = {}
    view, at = memoryview(data), 8
    kept = [view[:at]]
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if not kind[:1].islower() or kind in PNG_PIXELS:
            kept.append(view[at:end])
        elif kind == b"eXIf":
            said[b"exif"] = data[at + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = data[at + 8 : end - 4].partition(b"\0")
            said[keyword] = _text(kind, text)
        at = end
    kept.append(view[at:])
    exif = said.get(b"exif") or _raw_profile(said.get(b"Raw profile type exif", b""))
    return _stated(exif, said.get(b"XML:com.adobe.xmp", b"")), b"".join(kept)


def _text(kind: bytes, text: bytes) -> bytes:
    """What one of PNG's three text chunks says behind its keyword."""
    compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] != b"\0")
    if kind != b"tEXt":
        text = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT_BYTES) if compressed else text
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """An EXIF block as ImageMagick writes it: an empty line, name, length, lines of hex digits."""
    digits = re.sub(rb"[^0-9A-Fa-f]", b"", b"".join(text.split(b"\n")[3:]))
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
