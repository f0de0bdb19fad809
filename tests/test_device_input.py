"""Batches on their devices: the pixels of the host path, within what the device may differ."""

import jax
import numpy as np
import pytest
from PIL import Image
from recipe import GOLDEN
from tables import names_of, write_city

from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.data.device_augmentation import make_input, runs_on_host
from mixvpr_jax.data.loader import Batches
from mixvpr_jax.data.sources import Sampler, open_source
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.errors import InputError

SIZE = (64, 80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four places of street pictures in several sizes."""
    root = write_city(tmp_path_factory.mktemp("streets"), places=4)
    street = Image.open(GOLDEN / "street.jpg")
    for number, name in enumerate(names_of(root)):
        street.rotate(3 * number).resize((100 + number % 4, 75 + 10 * (number % 3))).save(
            root / name
        )
    return root


def batches(folder, on_host, num_ops, interpolation="bilinear"):
    augmentation = AugmentationConfig(num_ops, canvas=(90, 110))
    data = DataConfig(folder, ("Rome",), 4, 4, augmentation=augmentation)
    source = open_source(data)
    sampler = Sampler(source.places, data, 3)
    return Batches(source, sampler, SIZE, 16, 4, on_host, interpolation=interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("num_ops", [0, 1, 3])
def test_device_and_host_give_the_same_pictures(folder, num_ops, interpolation):
    given = {}
    for where in ("device", "host"):
        config = AugmentationConfig(num_ops, on=where)
        place = make_input(config, SIZE, data_mesh(), interpolation)
        images, labels = place(batches(folder, where == "host", num_ops, interpolation)[1])
        assert images.shape == (16, *SIZE, 3)
        assert images.dtype == np.uint8
        assert len(images.sharding.device_set) == len(jax.devices())
        given[where] = np.asarray(images).astype(int), np.asarray(labels)
    (ours, labels), (theirs, host_labels) = given["device"], given["host"]
    assert np.array_equal(labels, host_labels)
    off = np.abs(ours - theirs)
    if num_ops == 0:
        assert off.max() <= 1
        assert off.mean() <= 0.35
    # A level of the resize may become several: Equalize, AutoContrast and Solarize amplify it.
    assert np.median(off.mean((1, 2, 3))) <= 1
    assert (off <= 8).mean() >= 0.99


def test_one_program_serves_every_batch(folder):
    place = make_input(AugmentationConfig(on="device"), SIZE, data_mesh())
    place(batches(folder, False, 3)[0])
    with jax.no_tracing():
        for step in (1, 2, 3):
            place(batches(folder, False, 3)[step])


def test_where_it_runs(monkeypatch):
    assert runs_on_host(AugmentationConfig(on="host"))
    assert not runs_on_host(AugmentationConfig(on="device"))
    assert runs_on_host(AugmentationConfig())  # on a CPU Pillow is faster
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not runs_on_host(AugmentationConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "gpu"}, r"augmentation\.on: unknown name 'gpu'; known: auto, device, host"),
        ({"num_ops": -1}, "num_ops: expected 0 or more, found -1"),
        ({"magnitude": 31}, r"augmentation\.magnitude: expected 0 to 30, found 31"),
        ({"canvas": (0, 4)}, r"canvas: expected \(height, width\), found \(0, 4\)"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        AugmentationConfig(**options)
