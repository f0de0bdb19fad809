"""Descriptors of many files: over devices and processes, by workers, kept and gone on with."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import write_images

from mixvpr_jax import InputError, from_pretrained
from mixvpr_jax.evaluation import descriptors
from mixvpr_jax.evaluation.cache import (
    DescriptorCache,
    Part,
    content_key,
    prune,
    weights_hash,
)
from mixvpr_jax.evaluation.descriptors import compile_encoder, describe_images
from mixvpr_jax.parallel import data_mesh
from mixvpr_jax.preprocess import Preprocess


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, [f"{index:02d}.jpg" for index in range(21)])
    return sorted(folder.iterdir())


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(descriptors, "ROWS_PER_CHUNK", 4)


def mean_colours(images):
    """An encoder that is quick, and tells every photo from the others."""
    return images.reshape(len(images), -1, 3).mean(1)


class Counting:
    def __init__(self, stop_after=10**9):
        self.batches, self.stop_after = 0, stop_after

    def __call__(self, images):
        self.batches += 1
        if self.batches > self.stop_after:
            raise KeyboardInterrupt
        return mean_colours(images)


def described(paths, encode=mean_colours, **options):
    return describe_images(encode, Preprocess((16, 24)), paths, **({"batch_size": 2} | options))


def test_devices_share_each_batch(weights, photos):
    model, preprocess = from_pretrained(weights)
    alone = describe_images(compile_encoder(model), preprocess, photos[:5], batch_size=5)
    mesh = data_mesh(jax.devices())
    sizes = []

    def encode(images):
        result = compile_encoder(model, mesh)(images)
        sizes.append((len(images), len(result.sharding.device_set)))
        return result

    shared = describe_images(encode, preprocess, photos[:5], batch_size=5, batch_multiple=8)
    assert sizes == [(8, 8)]
    assert np.abs(shared.descriptors - alone.descriptors).max() <= 1e-6


def test_workers_read_what_threads_read(photos):
    by_threads = described(photos)
    by_processes = described(photos, num_workers=2)
    assert np.array_equal(by_threads.descriptors, by_processes.descriptors)


def test_order_and_progress(photos):
    told = []
    found = described(photos, on_progress=told.append)
    assert sum(told) == len(photos)
    one_by_one = np.concatenate([mean_colours(Preprocess((16, 24))(path)) for path in photos])
    assert np.array_equal(found.descriptors, one_by_one)


def test_half_precision_is_kept_as_such(photos):
    half, full = described(photos, storage="float16"), described(photos)
    assert half.descriptors.dtype == np.float16
    assert np.array_equal(half.descriptors, full.descriptors.astype(np.float16))


@pytest.mark.parametrize("stop_after", [1, 4, 7, 10])
def test_whatever_ends_it_nothing_is_computed_twice(tmp_path, photos, small_chunks, stop_after):
    cache = DescriptorCache(tmp_path / "key")
    broken = Counting(stop_after)
    with pytest.raises(KeyboardInterrupt):
        described(photos, broken, cache=cache)
    again = Counting()
    found = described(photos, again, cache=cache)
    # Chunks of two batches; of two that are computed at once, either may be the one that ends it.
    assert again.batches in {11 - 2 * (done // 2) for done in (stop_after - 1, stop_after)}
    assert np.array_equal(found.descriptors, described(photos).descriptors)
    nothing = Counting()
    assert np.array_equal(described(photos, nothing, cache=cache).descriptors, found.descriptors)
    assert nothing.batches == 0


def test_a_broken_chunk_is_computed_again(tmp_path, photos, small_chunks, caplog):
    cache = DescriptorCache(tmp_path / "key")
    found = described(photos, cache=cache)
    files = sorted((tmp_path / "key").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"")
    content = bytearray(files[2].read_bytes())
    content[content.index(found.descriptors[8:12].tobytes()) + 2] ^= 1
    files[2].write_bytes(content)
    again = Counting()
    assert np.array_equal(described(photos, again, cache=cache).descriptors, found.descriptors)
    assert again.batches == 6
    assert caplog.text.count("computed again: ") == 3


def test_what_cannot_be_read_is_remembered(tmp_path, photos, small_chunks):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    paths = [*photos[:3], broken, *photos[3:]]
    cache = DescriptorCache(tmp_path / "key")
    with pytest.raises(InputError, match=r"broken.jpg: expected an image"):
        described(paths, cache=cache)
    for _ in range(2):
        found = described(paths, cache=cache, skip_unreadable=True)
        assert found.readable.tolist() == [True] * 3 + [False] + [True] * 18
        assert len(found.reasons) == 1 and "broken.jpg" in found.reasons[0]
        assert np.array_equal(found.descriptors, described(photos).descriptors)


def test_a_known_unreadable_image_still_ends_a_strict_run(tmp_path, photos, small_chunks):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    cache = DescriptorCache(tmp_path / "key")
    described([*photos, broken], cache=cache, skip_unreadable=True)
    with pytest.raises(InputError, match=r"broken.jpg: expected an image"):
        described([*photos, broken], cache=cache)


def test_the_key_is_of_the_content(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    keys = {content_key("weights", paths, {"batch": 1})}
    assert keys == {content_key("weights", paths, {"batch": 1})}
    keys.add(content_key("other", paths, {"batch": 1}))
    keys.add(content_key("weights", paths, {"batch": 2}))
    keys.add(content_key("weights", paths[::-1], {"batch": 1}))
    os.utime(paths[0], (1, 1))
    keys.add(content_key("weights", paths, {"batch": 1}))
    stamp = paths[0].stat()
    paths[0].write_bytes(paths[0].read_bytes() + b" ")
    os.utime(paths[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    keys.add(content_key("weights", paths, {"batch": 1}))
    assert len(keys) == 6
    with pytest.raises(InputError, match=r"c.jpg: expected an image, found no such file"):
        content_key("weights", [tmp_path / "c.jpg"], {})


def test_the_hash_of_weights():
    weights = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}
    swapped = dict(reversed(weights.items()))
    assert weights_hash(weights) == weights_hash(swapped)
    for name, array in (("a", np.zeros((3, 2), np.float32)), ("b", np.zeros(4, np.float32))):
        assert weights_hash(weights | {name: array}) != weights_hash(weights)


def test_what_was_used_last_stays(tmp_path):
    for age, name in enumerate(["new", "old", "older"]):
        DescriptorCache(tmp_path / name).save(slice(0, 1), Part(np.zeros((1, 250)), ("",)))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    size = sum(file.stat().st_size for file in (tmp_path / "new").iterdir())
    DescriptorCache(tmp_path / "older")  # is used again
    prune(tmp_path, 2.5 * size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "older"]
    prune(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_share_the_images(tmp_path, photos):
    script = Path(__file__).with_name("two_describing.py")
    arguments = [sys.executable, str(script), str(tmp_path), str(photos[0].parent)]
    with subprocess.Popen([*arguments, "1"]) as other:
        subprocess.run([*arguments, "0"], check=True, timeout=300)
        assert other.wait(60) == 0
    whole = described(photos).descriptors
    for process in range(2):
        found = np.load(tmp_path / f"{process}.npz")
        assert np.array_equal(found["descriptors"], whole)
        assert 0 < int(found["batches"]) < 11
        assert "broken.jpg: expected an image" in str(found["error"])
