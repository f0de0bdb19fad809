"""EXIF blocks made by hand, and files of every format that carry them."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

ORIENTATION = 0x0112
SIZES = {1: "B", 3: "H", 4: "I", 5: "I", 10: "I", 11: "f", 12: "I"}  # of a ratio, its place
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def photo():
    """Of no symmetry, in blocks that JPEG keeps."""
    pixels = np.random.default_rng(5).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(np.kron(pixels, np.ones((8, 8, 1), np.uint8)))


def stored(orientation):
    """What a camera held at this orientation would have stored of it."""
    return photo().transpose(UNDO[orientation]) if orientation in UNDO else photo()


def block(orientation, *others, order="<", kind=3, count=1):
    """An EXIF block: the orientation, of a type and count, and (tag, type, count, slot) besides."""
    slot = struct.pack(order + SIZES[kind], orientation).ljust(4, b"\0")
    entries = sorted([(ORIENTATION, kind, count, slot), *others])
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    body = b"".join(struct.pack(order + "HHI4s", *entry) for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def xmp(orientation):
    return f'<x:xmpmeta><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def with_segment(jpeg, marker, content):
    return jpeg[:2] + struct.pack(">HH", marker, len(content) + 2) + content + jpeg[2:]


def with_chunk(png, kind, content, at=33):
    """Behind the header, or at another place."""
    crc = zlib.crc32(kind + content)
    chunk = struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", crc)
    return png[:at] + chunk + png[at:]


def with_entry(tiff, entry):
    """A TIFF file of one directory, which is written again at its end with an entry more."""
    start = struct.unpack_from("<I", tiff, 4)[0]
    count = struct.unpack_from("<H", tiff, start)[0]
    old = [struct.unpack_from("<HHI4s", tiff, start + 2 + 12 * index) for index in range(count)]
    entries = sorted([*(each for each in old if each[0] != entry[0]), entry])
    directory = b"".join(struct.pack("<HHI4s", *each) for each in entries)
    whole = tiff + bytes(len(tiff) % 2)
    head = whole[:4] + struct.pack("<I", len(whole)) + whole[8:]
    return head + struct.pack("<H", len(entries)) + directory + bytes(4)


def jpeg_taken(position=None, heading=None, time=None, tint=0):
    """A JPEG that says where and when it was taken, as phones write it."""
    exif = Image.Exif()
    if position is not None:
        gps = {}
        for tag, sides, degrees in ((1, "NS", position[0]), (3, "EW", position[1])):
            whole, minutes = divmod(abs(degrees) * 60, 60)
            gps |= {tag: sides[degrees < 0], tag + 1: (whole, int(minutes), minutes % 1 * 60)}
        if heading is not None:
            gps |= {16: "T", 17: heading}
        exif[ExifTags.IFD.GPSInfo] = gps
    if time is not None:
        said = {ExifTags.Base.DateTimeOriginal: time.strftime("%Y:%m:%d %H:%M:%S")}
        exif[ExifTags.IFD.Exif] = said
    pixels = np.full((40, 50, 3), tint % 256, np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", exif=exif)


def gps_of(*entries):
    """A JPEG whose GPS directory holds these entries."""
    return carrying("JPEG", photo(), gps_block(*entries))


def gps_block(*entries, others=()):
    """An EXIF block whose GPS directory holds entries: tag, type, count and bytes.

    `others` stand beside its pointer in the first directory: tag, type, count and slot.
    """
    start = 26 + 12 * len(others)  # behind the header and the first directory
    pointer = ExifTags.IFD.GPSInfo, 4, 1, struct.pack("<I", start)
    first = b"".join(struct.pack("<HHI4s", *each) for each in sorted([pointer, *others]))
    head = b"II*\0" + struct.pack("<IH", 8, 1 + len(others)) + first + bytes(4)
    slots, values = b"", b""
    for tag, kind, count, content in entries:
        at = struct.pack("<I", start + 6 + 12 * len(entries) + len(values))
        slot = content.ljust(4, b"\0") if len(content) <= 4 else at
        slots += struct.pack("<HHI", tag, kind, count) + slot
        values += content if len(content) > 4 else b""
    return head + struct.pack("<H", len(entries)) + slots + bytes(4) + values


def raw_profile(exif):
    return f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()


def carrying(kind, image, exif):
    """A file of an image that carries an EXIF block, whatever its bytes."""
    if kind == "JPEG":
        return with_segment(encoded(image, "JPEG", quality=95), 0xFFE1, b"Exif\0\0" + exif[:65000])
    if kind == "PNG":
        return with_chunk(encoded(image, "PNG"), b"eXIf", exif)
    if kind == "PNG, after the pixels":
        whole = encoded(image, "PNG")
        return with_chunk(whole, b"eXIf", exif, len(whole) - 12)
    if kind == "PNG, raw profile":
        content = b"Raw profile type exif\0" + raw_profile(exif)
        return with_chunk(encoded(image, "PNG"), b"tEXt", content)
    if kind == "PNG, compressed profile":
        content = b"Raw profile type exif\0\0" + zlib.compress(raw_profile(exif))
        return with_chunk(encoded(image, "PNG"), b"zTXt", content)
    prefix = b"Exif\0\0" if kind == "WebP, prefixed" else b""
    return _webp(image, b"EXIF", prefix + exif, 8)


def _webp(image, kind, content, flag):
    simple = encoded(image, "WEBP", lossless=True)
    sizes = b"".join((side - 1).to_bytes(3, "little") for side in image.size)
    header = b"VP8X" + struct.pack("<I", 10) + bytes([flag, 0, 0, 0]) + sizes
    chunk = kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    body = b"WEBP" + header + simple[12:] + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


CARRIERS = (
    "JPEG",
    "PNG",
    "PNG, after the pixels",
    "PNG, raw profile",
    "PNG, compressed profile",
    "WebP",
    "WebP, prefixed",
)


def stating(kind, image, orientation):
    """A well-formed file that states an image's orientation in XMP, or in TIFF's own tags."""
    said = xmp(orientation)
    if kind == "JPEG, XMP":
        content = b"http://ns.adobe.com/xap/1.0/\0" + said
        return with_segment(encoded(image, "JPEG", quality=95), 0xFFE1, content)
    if kind == "JPEG, MPO":
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options = {"save_all": True, "append_images": [image], "exif": exif, "quality": 95}
        return encoded(image, "MPO", **options)
    if kind == "PNG, XMP":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", said.decode())
        return encoded(image, "PNG", pnginfo=text)
    if kind == "PNG, compressed XMP":
        content = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(said)
        return with_chunk(encoded(image, "PNG"), b"iTXt", content)
    if kind == "WebP, XMP":
        return _webp(image, b"XMP ", said, 4)
    tags = {700: said} if kind == "TIFF, XMP" else {ORIENTATION: orientation}
    compression = {"TIFF, LZW": "tiff_lzw", "TIFF, deflated": "tiff_adobe_deflate"}.get(kind)
    options = {"compression": compression, "big_tiff": kind == "BigTIFF"}
    return encoded(image, "TIFF", tiffinfo=tags, **options)


STATING = (
    "JPEG, XMP",
    "JPEG, MPO",
    "PNG, XMP",
    "PNG, compressed XMP",
    "WebP, XMP",
    "TIFF",
    "TIFF, LZW",
    "TIFF, deflated",
    "TIFF, XMP",
    "BigTIFF",
)

FAR = struct.pack("<I", 2**31)
ODD = {
    "a signed ratio": (0x011A, 10, 1, struct.pack("<I", 50)),
    "a ratio beyond the end": (0x011A, 5, 1, FAR),
    "a text beyond the end": (0x010E, 2, 100, FAR),
    "numbers without end": (0x010F, 4, 2**32 - 1, FAR),
    "an unknown type": (0x0110, 99, 1, b"abcd"),
    "a directory that is a text": (0x8769, 2, 4, b"abcd"),
    "a directory before the beginning": (0x8769, 9, 1, struct.pack("<i", -5)),
    "a directory of itself": (0x8769, 4, 1, struct.pack("<I", 8)),
    "places beyond the end": (0x8825, 4, 1, FAR),
    "a resolution that is a text": (0x011A, 2, 4, b"abc\0"),
    "a unit of many": (0x0128, 3, 9, FAR),
    "XMP that is a text": (0x02BC, 2, 4, b"abcd"),
    "XMP that is numbers": (0x02BC, 4, 2, FAR),
    "no values": (0x0131, 3, 0, bytes(4)),
}

BROKEN_SEGMENTS = [
    (0xFFE0, b"JFIF"),
    (0xFFE2, b"MPF\0"),
    (0xFFE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
    (0xFFE2, b"MPF\0" + block(1)),
    (0xFFE2, b"ICC_PROFILE\0"),
    (0xFFED, b"Photoshop 3.0\0008BIM\4\4"),
    (0xFFEE, b"Adobe"),
    (0xFFE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
]  # of a JPEG: markers and contents
