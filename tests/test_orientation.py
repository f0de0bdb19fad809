"""Photos come upright, and none is lost for what is said of it beside its pixels."""

import io
import struct

import numpy as np
import pytest
from exif import (
    BROKEN_SEGMENTS,
    CARRIERS,
    ODD,
    ORIENTATION,
    STATING,
    block,
    carrying,
    encoded,
    photo,
    stating,
    stored,
    with_chunk,
    with_entry,
    with_segment,
    xmp,
)
from PIL import Image, ImageOps

from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import decode_image, to_rgb


def pixels(content):
    return np.asarray(decode_image(content, "a"))


def check_upright(content, lossy):
    """Within what JPEG loses of `photo`, or exactly."""
    found = pixels(content)
    assert found.shape == np.asarray(photo()).shape
    off = np.abs(found.astype(int) - np.asarray(photo()))
    assert off.mean() < 6 if lossy else not off.any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [*CARRIERS, *STATING])
def test_every_format_as_pillow_turns_it(kind, orientation):
    image = stored(orientation)
    if kind in CARRIERS:
        content = carrying(kind, image, block(orientation))
    else:
        content = stating(kind, image, orientation)
    check_upright(content, lossy="JPEG" in kind)
    of_pillow = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert np.array_equal(pixels(content), np.asarray(of_pillow))
    opened = Image.open(io.BytesIO(content))
    assert np.array_equal(np.asarray(to_rgb(opened)), np.asarray(of_pillow))
    assert np.array_equal(np.asarray(to_rgb(decode_image(content, "a"))), np.asarray(of_pillow))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_orientation_as_a_byte_a_short_or_a_long(carrier, order, kind):
    content = carrying(carrier, stored(6), block(6, order=order, kind=kind))
    check_upright(content, lossy=carrier == "JPEG")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (5, struct.pack("<II", 6, 1)),
        (10, struct.pack("<ii", 12, 2)),
        (11, b""),
        (12, struct.pack("<d", 6)),
    ],
)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_orientation_as_a_ratio_or_a_float(carrier, kind, values):
    """As Pillow turns them, too."""
    slot = len(block(6)) if values else 6
    content = carrying(carrier, stored(6), block(slot, kind=kind) + values)
    check_upright(content, lossy=carrier == "JPEG")
    opened = Image.open(io.BytesIO(content))
    assert np.array_equal(np.asarray(to_rgb(opened)), pixels(content))
    unknown = block(slot, kind=kind) + bytes(len(values)) if values else block(0, kind=kind)
    check_upright(carrying(carrier, photo(), unknown), lossy=carrier == "JPEG")


@pytest.mark.parametrize("orientation", [0, 9, 255])
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_orientation_that_is_none_is_upright(carrier, orientation):
    check_upright(carrying(carrier, photo(), block(orientation)), lossy=carrier == "JPEG")


def test_exif_comes_before_xmp():
    """Also where it says no more than that the photo is upright."""
    said = b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)
    jpeg = with_segment(carrying("JPEG", photo(), block(1)), 0xFFE1, said)
    check_upright(jpeg, lossy=True)
    tags = {ORIENTATION: 1, 700: xmp(6)}
    check_upright(encoded(photo(), "TIFF", tiffinfo=tags), lossy=False)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_odd_tag_costs_no_photo(carrier, name):
    """python-pillow/Pillow#8965: any orientation but 1 beside any odd tag."""
    for orientation in (1, 6):
        content = carrying(carrier, stored(orientation), block(orientation, ODD[name]))
        check_upright(content, lossy=carrier == "JPEG")


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_an_odd_tag_costs_no_tiff(name, compression):
    whole = encoded(stored(6), "TIFF", compression=compression, tiffinfo={ORIENTATION: 6})
    content = with_entry(whole, ODD[name])
    check_upright(content, lossy=False)


BROKEN = {
    "nothing": b"",
    "no TIFF": b"no TIFF at all",
    "a header alone": b"II*\0",
    "a directory outside": b"II*\0\xff\xff\xff\x7f",
    "a directory cut short": block(1)[:15],
    "entries cut short": block(1, (0x0131, 3, 1, bytes(4)))[:-12],
    "65535 entries": b"MM\0*\0\0\0\x08\xff\xff",
    "a BigTIFF cut short": b"II+\0\x08\0\0\0",
    "an order that is none": b"MI*\0\x08\0\0\0" + bytes(40),
    "prefixed twice": b"Exif\0\0Exif\0\0" + block(1),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_broken_exif_costs_no_photo(carrier, name):
    check_upright(carrying(carrier, photo(), BROKEN[name]), lossy=carrier == "JPEG")


@pytest.mark.parametrize(("marker", "content"), BROKEN_SEGMENTS)
def test_broken_segments_cost_no_jpeg(marker, content):
    plain = encoded(photo(), "JPEG", quality=95)
    turned = with_segment(carrying("JPEG", stored(6), block(6)), marker, content)
    assert np.array_equal(pixels(with_segment(plain, marker, content)), pixels(plain))
    check_upright(turned, lossy=True)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"Raw profile type exif\0\0no stream"),
        (b"tEXt", b"Raw profile type exif\0\nexif\n   8\nxyz"),
        (b"tEXt", b"Raw profile type exif\0"),
        (b"tEXt", b"exif\0abc"),
        (b"iTXt", b"XML:com.adobe.xmp"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no stream"),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0"),
        (b"iCCP", b"x"),
        (b"pHYs", b""),
        (b"gAMA", b"1"),
        (b"cHRM", b"1"),
    ],
)
def test_broken_chunks_cost_no_png(kind, content):
    whole = encoded(photo(), "PNG")
    for at in (33, len(whole) - 12):
        check_upright(with_chunk(whole, kind, content, at), lossy=False)
    wrong_sum = with_chunk(whole, kind, content).replace(kind, b"vpAg")
    check_upright(wrong_sum, lossy=False)


def test_two_blocks_of_exif_are_one():
    """As long ones are written."""
    exif = block(6)
    jpeg = encoded(stored(6), "JPEG", quality=95)
    for part in (exif[20:], exif[:20]):
        jpeg = with_segment(jpeg, 0xFFE1, b"Exif\0\0" + part)
    check_upright(jpeg, lossy=True)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_pixels_cut_short_are_still_refused(carrier):
    content = carrying(carrier, photo(), block(1))
    start = content.find(b"IDAT") if "PNG" in carrier else len(content) // 2
    with pytest.raises(InputError, match="a: expected a whole image"):
        decode_image(content[: start + 40], "a")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "JPEG with a preview"])
def test_zeros_in_place_of_pixels_are_refused(kind, share):
    """What a power cut, or a download that was given its room before, leaves behind."""
    cells = (30, 40, 3) if kind == "PNG" else (6, 8, 3)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, cells, np.uint8))
    smooth = noise.resize((640, 480), Image.Resampling.BICUBIC)
    content = encoded(smooth, "PNG") if kind == "PNG" else encoded(smooth, "JPEG", optimize=True)
    if "preview" in kind:
        content = with_segment(content, 0xFFE1, b"Exif\0\0" + block(1) + encoded(noise, "JPEG"))
    cut = int(share * len(content))
    with pytest.raises(InputError, match="a: expected a whole image, found a broken one"):
        pixels(content[:cut] + bytes(len(content) - cut))
    assert np.array_equal(pixels(content + bytes(99)), pixels(content))


def test_exif_cut_short_behind_the_pixels_costs_no_png():
    content = carrying("PNG, after the pixels", photo(), block(1))
    check_upright(content[:-30], lossy=False)


@pytest.mark.filterwarnings("ignore")  # Pillow's own, of what is malformed
def test_images_that_somebody_opened():
    """`to_rgb` is given what Pillow opened, whatever its readers of metadata make of it."""
    for name, exif in BROKEN.items():
        for carrier in ("PNG", "WebP"):
            opened = Image.open(io.BytesIO(carrying(carrier, photo(), exif)))
            assert np.array_equal(np.asarray(to_rgb(opened)), np.asarray(photo())), name
    content = carrying("WebP", stored(6), block(6, ODD["a signed ratio"], kind=1))
    assert np.array_equal(np.asarray(to_rgb(Image.open(io.BytesIO(content)))), np.asarray(photo()))
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(carrying("PNG", stored(6), block(6)))))
    assert np.array_equal(np.asarray(to_rgb(turned)), np.asarray(photo()))


def test_an_orientation_set_in_memory():
    image = stored(6)
    image.getexif()[ORIENTATION] = 6
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(photo()))


@pytest.mark.parametrize("carrier", ["JPEG", "PNG", "WebP"])
def test_a_copy_keeps_the_orientation(carrier):
    with Image.open(io.BytesIO(carrying(carrier, stored(6), block(6)))) as opened:
        assert to_rgb(opened.copy()).size == photo().size != opened.size


@pytest.mark.parametrize("said", ["='6'", ' = "6"', '="6"', ">6</tiff:Orientation", ">\n6\n<"])
@pytest.mark.parametrize("kind", ["JPEG, XMP", "PNG, XMP", "WebP, XMP"])
def test_opened_images_read_xmp_as_files_do(kind, said, monkeypatch):
    """XML knows two quotes and blanks, Pillow's own reader of it one."""
    text = f"<x:xmpmeta><rdf tiff:Orientation{said}></x:xmpmeta>".encode()
    monkeypatch.setattr("exif.xmp", lambda _: text)
    content = stating(kind, stored(6), 6)
    of_file = decode_image(content, "a")
    assert np.array_equal(np.asarray(to_rgb(Image.open(io.BytesIO(content)))), np.asarray(of_file))
    assert of_file.size == photo().size


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_pillow_turned_stays_so_whatever_xmp_states(orientation, quote):
    """`exif_transpose` takes the orientation out of EXIF, and not always out of XMP."""
    said = b"http://ns.adobe.com/xap/1.0/\0" + xmp(6).replace(b'"', quote.encode())
    jpeg = with_segment(carrying("JPEG", stored(orientation), block(orientation)), 0xFFE1, said)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(jpeg)))
    assert to_rgb(turned).size == photo().size
