"""RandAugment's operations by Pillow and on the device, against the official pixels."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch_or_skip as torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixvpr_jax.data import device_augmentation
from mixvpr_jax.data.augmentation import (
    MAX_MAGNITUDE,
    NUM_SIGNED,
    OPERATIONS,
    amount,
    apply_operation,
    draw_operations,
    rand_augment,
)
from mixvpr_jax.preprocess import Preprocess

GOLDEN = Path(__file__).parent / "golden"
SIGNED = [
    sign * index
    for index in range(len(OPERATIONS))
    for sign in (1, -1)[: 1 + (0 < index < NUM_SIGNED)]
]
AT_ONCE = device_augmentation.AT_ONCE
on_device = jax.jit(device_augmentation.rand_augment, static_argnums=2)


def name_of(operation):
    return f"{OPERATIONS[abs(operation)]}/{'-' if operation < 0 else '+'}"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "preprocess.npz")


@pytest.fixture(scope="module")
def street():
    return Preprocess((320, 320)).resize(GOLDEN / "street.jpg")


@pytest.fixture(scope="module")
def one_of_each(street):
    """The street after each operation, on the device."""
    repeated = np.repeat(street[None], len(SIGNED), axis=0)
    return np.asarray(on_device(repeated, np.array(SIGNED, np.int8)[:, None], 9))


def test_every_official_operation_is_here(golden):
    official = {name.removeprefix("randaugment/") for name in golden if "randaugment/" in name}
    assert official == {name_of(operation) for operation in SIGNED}


@pytest.mark.parametrize("operation", SIGNED, ids=name_of)
def test_official_pixels(operation, street, golden, parity):
    after = np.asarray(apply_operation(Image.fromarray(street), operation, 9))
    official = golden[f"randaugment/{name_of(operation)}"]
    off = np.abs(after[::4, ::4].astype(int) - official).max()
    parity("RandAugment by Pillow, grey levels", off, 0)


@pytest.mark.parametrize("operation", SIGNED, ids=name_of)
def test_official_pixels_on_the_device(operation, one_of_each, golden):
    found = one_of_each[SIGNED.index(operation)][::4, ::4].astype(int)
    off = np.abs(found - golden[f"randaugment/{name_of(operation)}"].astype(int)).max(-1)
    assert (off <= 1).mean() >= 0.99


def test_most_operations_give_the_same_pixels_on_the_device(one_of_each, street, parity):
    """And none is off by more than one level, nor on more than 0.05 % of the pixels."""
    exact = 0
    for operation, after in zip(SIGNED, one_of_each, strict=True):
        expected = np.asarray(apply_operation(Image.fromarray(street), operation, 9))
        off = np.abs(after.astype(int) - expected).max(-1)
        parity("RandAugment on the accelerator, grey levels", off.max(), 1)
        parity("the share of its pixels that differ", (off > 0).mean(), 0.0005)
        exact += not off.any()
    assert exact >= 16


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.integers(0, MAX_MAGNITUDE),
    operation=st.sampled_from(SIGNED),
)
def test_device_and_pillow_agree(seed, magnitude, operation):
    """At any magnitude, on images that are not square, flat or of few grey levels among them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((56, 40), Image.Resampling.BICUBIC))
    images = np.stack([smooth, np.full_like(smooth, seed % 256), smooth // 100])
    found = np.asarray(on_device(images, np.full((3, 1), operation, np.int8), magnitude))
    for image, after in zip(images, found, strict=True):
        expected = np.asarray(apply_operation(Image.fromarray(image), operation, magnitude))
        off = np.abs(after.astype(int) - expected).max(-1)
        assert (off <= 1).mean() >= 0.99


@pytest.mark.parametrize("magnitude", [0, 10, 30])  # thresholds of Solarize that are a level
def test_every_level_is_mapped_as_by_pillow(magnitude):
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    operations = [OPERATIONS.index(name) for name in ("Posterize", "Solarize")]
    found = on_device(np.stack([ramp, ramp]), np.array(operations, np.int8)[:, None], magnitude)
    for operation, after in zip(operations, np.asarray(found), strict=True):
        expected = np.asarray(apply_operation(Image.fromarray(ramp), operation, magnitude))
        np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("name", ["ShearX", "TranslateX", "TranslateY", "Rotate", "Color"])
def test_magnitudes_are_torchs(name):
    """torchvision takes them from torch.linspace, in float32."""
    for size in ((320, 320), (300, 400), (33, 639)):
        full = {"ShearX": 0.3, "Rotate": 30.0, "Color": 0.9}.get(
            name, 150 / 331 * size[name == "TranslateX"]
        )
        expected = torch.linspace(0.0, full, MAX_MAGNITUDE + 1).tolist()
        assert [amount(name, m, size) for m in range(MAX_MAGNITUDE + 1)] == expected


@pytest.mark.parametrize("size", [(320, 320), (322, 322), (480, 640), (7, 5), (3, 3)])
def test_rotations_are_pillows(size, street):
    """torchvision calls `Image.rotate`."""
    image = Image.fromarray(street).resize(size[::-1])
    for magnitude in range(MAX_MAGNITUDE + 1):
        for sign in (1, -1):
            angle = sign * amount("Rotate", magnitude, size)
            expected = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0))
            after = apply_operation(image, sign * OPERATIONS.index("Rotate"), magnitude)
            np.testing.assert_array_equal(np.asarray(after), np.asarray(expected))


def test_each_image_has_its_own_operations(street):
    operations = draw_operations(np.random.default_rng(0), 12, 3)
    found = np.asarray(on_device(np.repeat(street[None], 12, axis=0), operations, 9))
    for after, own in zip(found, operations, strict=True):
        expected = np.asarray(rand_augment(Image.fromarray(street), own, 9))
        # Equalize and AutoContrast stretch what differs by one level before them.
        assert np.abs(after.astype(int) - expected).mean() <= 0.5


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE + 3])
@pytest.mark.parametrize("name", ["Rotate", "Equalize"])
def test_any_number_of_images_may_draw_an_operation_that_costs_much(name, count):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 200, (2 * AT_ONCE + 3, 24, 32, 3), np.uint8)
    operations = np.zeros((len(images), 1), np.int8)
    operations[rng.permutation(len(images))[:count]] = OPERATIONS.index(name)
    found = np.asarray(on_device(images, operations, 9))
    each = [
        np.asarray(on_device(*one, 9))[0]
        for one in zip(images[:, None], operations[:, None], strict=True)
    ]
    assert np.array_equal(found, each)
    assert np.array_equal((found != images).any(axis=(1, 2, 3)), operations[:, 0] > 0)


def test_operations_are_drawn_evenly():
    drawn = draw_operations(np.random.default_rng(1), 20_000, 3)
    assert drawn.shape == (20_000, 3)
    assert drawn.dtype == np.int8
    counts = np.bincount(np.abs(drawn).ravel(), minlength=len(OPERATIONS))
    expected = drawn.size / len(OPERATIONS)
    assert np.abs(counts - expected).max() <= 5 * np.sqrt(expected)
    for index in range(1, len(OPERATIONS)):
        found = int((drawn == -index).sum())
        if index < NUM_SIGNED:
            assert abs(found - expected / 2) <= 5 * np.sqrt(expected / 4)
        else:
            assert found == 0
