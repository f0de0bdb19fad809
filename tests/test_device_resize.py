"""The resize on the device, against Pillow's and the official pixels."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mixvpr_jax.data.device_augmentation import resize
from mixvpr_jax.preprocess import Preprocess

GOLDEN = Path(__file__).parent / "golden"
on_device = jax.jit(resize, static_argnums=(2, 3))


def on_canvas(images, height, width):
    """Images in the corner of a canvas that is bright elsewhere: it must not shine through."""
    canvas = np.full((len(images), height, width, 3), 255, np.uint8)
    for row, image in enumerate(images):
        canvas[row, : image.shape[0], : image.shape[1]] = image
    return canvas, np.array([image.shape[:2] for image in images], np.int32)


def test_official_pixels(parity):
    street = np.asarray(Image.open(GOLDEN / "street.jpg"))
    found = np.asarray(on_device(*on_canvas([street], 500, 640), (320, 320)))[0, ::2, ::2]
    off = np.abs(found.astype(int) - np.load(GOLDEN / "preprocess.npz")["resize_bilinear"])
    parity("resize on the accelerator, grey levels", off.max(), 1)
    parity("their mean over its pixels", off.mean(), 0.35)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("image_size", [(320, 320), (60, 90)])
def test_several_sizes_at_once(image_size, interpolation):
    street = Image.open(GOLDEN / "street.jpg")
    sizes = [(400, 300), (300, 400), (90, 60), (37, 41), (400, 400), (1, 1)]
    images = [np.asarray(street.resize(size)) for size in sizes]
    images.append(np.uint8(np.random.default_rng(0).integers(0, 2, (90, 120, 3)) * 255))
    found = np.asarray(on_device(*on_canvas(images, 400, 400), image_size, interpolation))
    for image, after in zip(images, found, strict=True):
        off = np.abs(after.astype(int) - Preprocess(image_size, interpolation).resize(image))
        assert off.max() <= 1
        assert off.mean() <= 0.35


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_has_the_size_already_stays_as_it_is(interpolation):
    street = Preprocess((64, 48)).resize(GOLDEN / "street.jpg")
    found = on_device(*on_canvas([street], 80, 80), (64, 48), interpolation)
    np.testing.assert_array_equal(np.asarray(found)[0], street)
