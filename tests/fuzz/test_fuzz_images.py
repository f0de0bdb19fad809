"""Images from strangers: whatever their bytes are, pixels or one line."""

import io

import numpy as np
import pytest
from breaking import broken
from fuzzing import BESIDES, MEBIBYTE, PIXEL_BYTES, campaign, kept_seeds, line_of
from hypothesis import given
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
    assert line is None or "floats of unknown range" in line


SEEDS = kept_seeds(".jpg")


@pytest.mark.parametrize("name", SEEDS)
def test_kept_seeds(name):
    assert read(SEEDS[name])


@campaign(600)
@given(broken([*FILES, *OTHERS], PIECES))
def test_images(content):
    read(content)
