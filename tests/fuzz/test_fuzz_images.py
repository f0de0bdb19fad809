"""Images from strangers: whatever their bytes are, pixels or one line."""

import io

import numpy as np
import pytest
from breaking import broken
from exif import CARRIERS, block, carrying, photo, stored, with_entry
from exif import encoded as encoded_as
from fuzzing import BESIDES, MEBIBYTE, PIXEL_BYTES, campaign, kept_seeds, line_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mixvpr_jax import preprocess
from mixvpr_jax.preprocess import Preprocess, decode_image


def encoded(mode, kind, size=(24, 16), **options):
    random = np.random.default_rng(0)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (size[1], size[0], channels), np.uint8)
    image = Image.fromarray(
        pixels.squeeze() if channels == 1 else pixels, mode if channels > 1 else "L"
    )
    stream = io.BytesIO()
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def turned():
    exif = Image.Exif()
    exif[274], exif[34853] = 6, {1: "N"}
    return encoded("RGB", "JPEG", exif=exif)


FILES = [
    encoded("RGB", "JPEG"),
    encoded("L", "JPEG", progressive=True),
    encoded("CMYK", "JPEG"),
    turned(),
    encoded("RGB", "PNG"),
    encoded("RGBA", "PNG"),
    encoded("P", "PNG", transparency=3),
    encoded("I;16", "PNG"),
    encoded("1", "PNG"),
    encoded("RGB", "WEBP", quality=50),
    encoded("RGBA", "WEBP", lossless=True),
    encoded("RGB", "TIFF"),
    encoded("RGB", "TIFF", compression="tiff_lzw"),
    encoded("L", "TIFF", compression="jpeg"),
    encoded("I", "TIFF", compression="tiff_adobe_deflate"),
    encoded("F", "TIFF"),
    encoded("1", "TIFF", compression="group4"),
    encoded("RGB", "BMP"),
    encoded("P", "BMP"),
    encoded("P", "GIF"),
    encoded("RGB", "PPM"),
    encoded("I;16", "PPM"),
]
OTHERS = [
    b"",
    b"<!DOCTYPE html>",
    b"version https://git-lfs.github.com/spec/v1\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    b"P6 60000 60000 255\n",
]
PIECES = [
    b"\xff\xd8", b"\xff\xda", b"\xff\xc2", b"\xff\xe1", b"Exif\0\0", b"IDAT", b"IHDR", b"acTL",
    b"fcTL", b"tRNS", b"eXIf", b"VP8X", b"VP8L", b"ALPH", b"ANIM", b"II*\0", b"MM\0*",
    b"\xff\xff\xff\xff",
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_images_only(monkeypatch):
    monkeypatch.setattr(preprocess, "MAX_PIXELS", MEBIBYTE)


def read(content):
    limit = BESIDES + PIXEL_BYTES * preprocess.MAX_PIXELS

    def resized():
        Preprocess((8, 8)).resize(decode_image(content, "a.jpg"))

    return line_of(resized, memory=limit)


@pytest.mark.parametrize("index", range(len(FILES)))
def test_whole_files_are_read(index):
    line = read(FILES[index])
    assert line is None or "of unknown range" in line


SEEDS = kept_seeds(".jpg")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(name):
    assert read(SEEDS[name])


@campaign(600)
@given(broken([*FILES, *OTHERS], PIECES))
def test_images(content):
    read(content)


# What is said of pixels ---------------------------------------------------------------------------

BLOCKS = [block(6), block(3, order=">", kind=4), block(8, (0x011A, 10, 1, b"\x32\0\0\0")), b""]
WAYS = [np.asarray(stored(number)) for number in range(1, 9)]
IN_TIFF = [0x010E, 0x010F, 0x0112, 0x011A, 0x0128, 0x02BC, 0x8649, 0x8769, 0x8773, 0x8825, 0xA005]


def check_read(content, *, turned_from):
    """Every pixel is there, turned in one of eight ways."""
    found = np.asarray(decode_image(content, "a"))
    off = min(np.abs(found.astype(int) - way).mean() for way in WAYS if way.shape == found.shape)
    assert off < 6 if turned_from == "JPEG" else off == 0


@campaign(400)
@given(st.sampled_from(CARRIERS), st.one_of(broken(BLOCKS), st.binary(max_size=200)))
def test_whatever_exif_is_the_pixels_are_read(carrier, exif):
    check_read(carrying(carrier, photo(), exif), turned_from=carrier)


@campaign(200)
@given(
    st.sampled_from((None, "tiff_lzw")),
    st.sampled_from(IN_TIFF),
    st.integers(0, 20),
    st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)),
    st.binary(min_size=4, max_size=4),
)
def test_whatever_a_tag_is_the_pixels_are_read(compression, tag, kind, count, slot):
    whole = encoded_as(photo(), "TIFF", compression=compression)
    check_read(with_entry(whole, (tag, kind, count, slot)), turned_from="TIFF")


@campaign(100)
@given(
    st.sampled_from(CARRIERS), st.integers(1, 8), st.sampled_from("<>"), st.sampled_from((1, 3, 4))
)
def test_an_orientation_is_always_applied(carrier, orientation, order, kind):
    content = carrying(carrier, stored(orientation), block(orientation, order=order, kind=kind))
    off = np.abs(np.asarray(decode_image(content, "a")).astype(int) - np.asarray(photo()))
    assert off.mean() < 6 if carrier == "JPEG" else not off.any()
