"""A photo's metadata, its orientation, its file without metadata, and whether that is whole.

Pillow refuses a whole photo for a fault in its EXIF, XMP or other metadata
(python-pillow/Pillow#8965). So its tags are read one by one, malformed ones are ignored, and the
decoder gets a file without any.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from numbers import Real

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
# Types of values as `struct` has them; a ratio is two numbers.
CODES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii"}
CODES |= {11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, EXIF_START = b"\x89PNG\r\n\x1a\n", b"Exif\0\0"


def separate(data: bytes) -> tuple[int, bytes | bytearray]:
    """Splits an image file into its orientation and the same pixels without metadata.

    The orientation is EXIF's 1 to 8; 1 is upright or unknown.
    """
    exif, xmp, pixels = parts(data)
    return _stated(exif, xmp), pixels


def parts(data: bytes) -> tuple[bytes, bytes, bytes | bytearray]:
    """What an image file holds: its EXIF block and XMP, as they are, and its file without metadata.

    The pixels of WebP and of unknown formats pass as they are: Pillow reads no metadata of theirs
    on opening.
    """
    if data.startswith(JPEG_START):
        return _parts_of_jpeg(data)
    if data.startswith(PNG_START):
        return _parts_of_png(data)
    if data.startswith((b"II", b"MM")):
        return _parts_of_tiff(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _parts_of_webp(data)
    return b"", b"", data


def is_sound(data: bytes) -> bool:
    """Whether a PNG's pixel data match their checksums, and a JPEG's have an end marker.

    Pillow checks neither, and decodes the zeros that a power cut or an unfinished download leaves
    at the end of a file.
    """
    if data.startswith(JPEG_START):
        scan = start_of_scan(data)
        return scan is not None and data.rfind(JPEG_END, scan) >= 0  # from the end, where it is
    if not data.startswith(PNG_START):
        return True
    view = memoryview(data)
    return all(
        zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end])
        for kind, at, end in _chunks(data)
        if kind == b"IDAT" and end <= len(data)
    )


def start_of_scan(jpeg: bytes) -> int | None:
    """Where a JPEG's pixels begin, and its metadata end; None if that is beyond these data."""
    return next((at for marker, at, _ in _segments(jpeg) if marker == START_OF_SCAN), None)


def orientation_of(image: Image.Image) -> int:
    """The orientation (1 to 8) of an opened image whose pixels are loaded."""
    try:
        exif = image.getexif()
        # Beside EXIF, XMP may still state what `ImageOps.exif_transpose` has turned.
        unsaid = UPRIGHT if exif or "exif" in image.info else None
        value = exif.get(ExifTags.Base.Orientation, unsaid)
    except Exception:  # Pillow's metadata readers raise many kinds
        value = None
    if isinstance(value, Real):
        return next((turn for turn in TURNS if turn == value), UPRIGHT)
    said = (image.info.get(name) for name in ("exif", "xmp"))
    return _stated(*(text if isinstance(text, bytes) else b"" for text in said))


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
    for _, tag, code, values in entries(exif):
        if tag == ExifTags.Base.Orientation and values and code[1:] != "c":
            value, *below = struct.unpack_from(code, values)  # a ratio, as some write it
            below = (*below, 1)[0]
            return next((turn for turn in TURNS if value and value == turn * below), UPRIGHT)
    said = ORIENTATION_IN_XMP.search(xmp)
    return int(said[1]) if said else UPRIGHT


def entries(block: bytes, start: int = 0) -> Iterator[tuple[int, int, str, memoryview]]:
    """The directory at `start` of a TIFF file or EXIF block, or the first, up to where it is cut.

    An entry is its offset, its tag, a value's `struct` format, and those values that are there:
    none of an unknown type.
    """
    tiff = block.removeprefix(EXIF_START).removeprefix(EXIF_START)  # some write it twice
    order, version = {b"II": "<", b"MM": ">"}.get(tiff[:2]), tiff[2:4].strip(b"\0")
    if order is None or version not in (b"*", b"+"):
        return
    big = version == b"+"
    kinds = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    pointer, number, entry = (order + kind for kind in kinds)
    room = struct.calcsize(pointer)
    try:
        start = start or struct.unpack_from(pointer, tiff, room)[0]
        (count,) = struct.unpack_from(number, tiff, start)
    except (struct.error, OverflowError, IndexError):  # beyond the end
        return
    head, view = struct.calcsize(entry), memoryview(tiff)
    first, step = start + struct.calcsize(number), head + room
    for at in range(first, len(tiff) - step + 1, step)[:count]:
        tag, kind, length = struct.unpack_from(entry, tiff, at)
        code = order + CODES.get(kind, "")
        size, values_at = struct.calcsize(code), at + head
        if size * length > room:
            (values_at,) = struct.unpack_from(pointer, tiff, values_at)
        values = view[values_at : values_at + size * length]
        yield at, tag, code, values[: len(values) // max(size, 1) * size]


def _parts_of_tiff(data: bytes) -> tuple[bytes, bytes, bytearray]:
    """Gives metadata entries the invalid type 0, which every reader skips."""
    xmp, blank = b"", bytearray(data)
    for at, tag, code, values in entries(data):
        if tag == XMP_TAG and struct.calcsize(code) == 1:
            xmp = bytes(values)
        if tag not in TIFF_PIXELS:
            blank[at + 2 : at + 4] = b"\0\0"
    return data, xmp, blank


def _parts_of_webp(data: bytes) -> tuple[bytes, bytes, bytes]:
    said, at = dict.fromkeys((b"EXIF", b"XMP "), b""), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind in said:
            said[kind] = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return said[b"EXIF"], said[b"XMP "], data


def _parts_of_jpeg(data: bytes) -> tuple[bytes, bytes, bytearray]:
    """Blanks the names of metadata segments, so that every reader skips them."""
    exif, xmp, blank = bytearray(), b"", bytearray(data)
    for marker, start, end in _segments(data):
        if marker == APP_1 and data.startswith(EXIF_START, start):
            exif += data[start + 6 : end]
        elif marker == APP_1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start):
            xmp = data[start:end]
        name, least = HEEDED.get(marker, (b"", 2**16))
        heeded = end - start >= least and data.startswith(name, start)
        if marker & 0xF0 == 0xE0 and not heeded:
            stop = min(start + 4, end)
            blank[start:stop] = bytes(stop - start)
    return bytes(exif), xmp, blank


def _segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment, and from where to where its content goes, up to the pixels."""
    at = 2
    while (at := jpeg.find(b"\xff", at)) >= 0 and at + 4 <= len(jpeg):
        marker = jpeg[at + 1]
        if marker == 0xFF or marker in STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        start, end = at + 4, at + 2 + max(2, jpeg[at + 2] << 8 | jpeg[at + 3])
        if end > len(jpeg):
            return
        yield marker, start, end
        if marker == START_OF_SCAN:
            return
        at = end


def _parts_of_png(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Drops the chunks that pixels do not depend on."""
    said: dict[bytes, bytes] = {}
    view, end = memoryview(data), 8
    kept = [view[:end]]
    for kind, at, end in _chunks(data):
        if not kind[:1].islower() or kind in PNG_PIXELS:
            kept.append(view[at:end])
        elif kind == b"eXIf":
            said[b"exif"] = data[at + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = data[at + 8 : end - 4].partition(b"\0")
            said[keyword] = _text(kind, text)
    kept.append(view[end:])
    exif = said.get(b"exif") or _raw_profile(said.get(b"Raw profile type exif", b""))
    return exif, said.get(b"XML:com.adobe.xmp", b""), b"".join(kept)


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and from where to where it goes, perhaps beyond the file's end."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        yield kind, at, at + 12 + length
        at += 12 + length


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
