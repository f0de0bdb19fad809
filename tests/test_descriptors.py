"""Describing many files: over devices, processes and workers, with a cache that resumes."""

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import write_images
from PIL import ExifTags, Image

from mixvpr_jax import InputError, from_pretrained
from mixvpr_jax.distributed import data_mesh
from mixvpr_jax.evaluation import describe, reading
from mixvpr_jax.evaluation.cache import DescriptorCache, OneWarning
from mixvpr_jax.evaluation.describe import compile_encoder, describe_images
from mixvpr_jax.preprocess import Preprocess, normalize
from mixvpr_jax.storage import OutOfReach


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder, [f"{index:02d}.jpg" for index in range(21)])
    return sorted(folder.iterdir())


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(describe, "ROWS_PER_CHUNK", 4)


def mean_colours(images):
    """An encoder that is quick, and tells every photo from the others."""
    return images.reshape(len(images), -1, 3).mean(1, dtype=np.float32)


class Counting:
    def __init__(self, stop_after=10**9):
        self.batches, self.stop_after = 0, stop_after

    def __call__(self, images):
        self.batches += 1
        if self.batches > self.stop_after:
            raise KeyboardInterrupt
        return mean_colours(images)


def encode_all(paths, encode):
    return np.concatenate([encode(Preprocess((16, 24)).resize(path)[None]) for path in paths])


def numbers(process):
    """What 32 bits, or a conversion, would spoil; of each process another number of rows."""
    rows = 5 - 4 * process
    return {
        "int64": np.arange(rows, dtype=np.int64) + 5 * 10**9,
        "uint64": np.full((rows, 2), 2**64 - 1, np.uint64),
        "float64": np.linspace(0, np.pi, 3 * rows).reshape(rows, 3),
        "float32": np.full((rows, 1, 2), np.nan, np.float32),
        "float16": np.arange(rows, dtype=np.float16),
        "bool": np.arange(rows) % 2 == 0,
        "nothing": np.zeros((rows, 0), np.float32),
        "none of one": np.zeros((5 * process, 3), np.int64) - 1,
    }


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


def test_a_batch_is_read_in_pieces(tmp_path, photos, monkeypatch):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [*photos[:9], tmp_path / "broken.jpg", *photos[9:]]
    whole = described(paths, batch_size=8, skip_unreadable=True)
    monkeypatch.setattr(describe, "READ_AT_ONCE", 3)
    found = described(paths, batch_size=8, skip_unreadable=True)
    assert np.array_equal(found.descriptors, whole.descriptors)
    assert np.array_equal(found.readable, [path.name != "broken.jpg" for path in paths])
    assert found.reasons == whole.reasons


@pytest.mark.parametrize("devices", [1, 8])
def test_images_are_normalised_on_the_devices_as_on_the_host(weights, photos, devices):
    model, preprocess = from_pretrained(weights)
    encode = compile_encoder(model, data_mesh(jax.devices()[:devices]))
    images = np.stack([preprocess.resize(path) for path in photos[:8]])
    assert np.array_equal(encode(images), encode(preprocess(photos[:8])))
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(jax.jit(describe.normalized)(levels), normalize(levels))


def test_without_jit_descriptors_are_the_same_to_rounding(weights, photos):
    """As for a debugger: JAX_DISABLE_JIT=1, or `jax.disable_jit()` after programs were compiled."""
    model, preprocess = from_pretrained(weights)
    encode, images = compile_encoder(model, data_mesh(jax.devices())), preprocess(photos[:8])
    compiled = encode(images)
    with jax.disable_jit():
        np.testing.assert_allclose(encode(images), compiled, atol=1e-6)


def test_workers_read_what_threads_read(photos):
    by_threads = described(photos)
    by_processes = described(photos, num_workers=2)
    assert np.array_equal(by_threads.descriptors, by_processes.descriptors)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("broken", [0, 1])
def test_descriptors_are_held_once(tmp_path, photos, small_chunks, monkeypatch, where, broken):
    """Fresh, and from the cache; NumPy tells tracemalloc of what it allocates.

    The least of three runs counts: whatever else the process does is traced, too.
    """
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths = [tmp_path / "broken.jpg"] * broken + photos * 16

    def encode(images):
        return np.repeat(mean_colours(images), 4000, axis=1)

    expected = np.tile(encode_all(photos, encode), (16, 1))
    if where == "file":
        monkeypatch.setattr(describe, "IN_MEMORY_BYTES", 1000)

    def peak(cache):
        tracemalloc.start()
        options = {"cache": cache, "skip_unreadable": True, "temporary": tmp_path}
        found = described(paths, encode, **options)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert np.array_equal(found.descriptors, expected)
        return most / expected.nbytes

    caches = [DescriptorCache(tmp_path / f"key {run}") for run in range(3)]
    fresh, kept = ([peak(cache) for cache in caches] for _ in range(2))
    assert max(min(fresh), min(kept)) < (1.2 if where == "memory" else 0.2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"broken.jpg", "key 0", "key 1", "key 2"}


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_a_disk_without_room_for_the_descriptors(tmp_path, photos, monkeypatch):
    """Found before anything is written: a page of a mapping that has no room kills the process."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(describe, "IN_MEMORY_BYTES", 10)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match=f"{tmp_path}: expected room on the disk"):
        described(photos, temporary=tmp_path)


def test_order_and_progress(photos):
    told = []
    found = described(photos, on_progress=told.append)
    assert sum(told) == len(photos)
    assert np.array_equal(found.descriptors, encode_all(photos, mean_colours))


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
    # Three batches are in work, of chunks of two: the first of them may be the one that ends it.
    assert stop_after - 3 <= 11 - again.batches <= stop_after
    assert np.array_equal(found.descriptors, described(photos).descriptors)
    nothing = Counting()
    assert np.array_equal(described(photos, nothing, cache=cache).descriptors, found.descriptors)
    assert nothing.batches == 0


def test_a_broken_chunk_is_computed_again(tmp_path, photos, small_chunks, caplog):
    cache = DescriptorCache(tmp_path / "key")
    found = described(photos, cache=cache)
    files = sorted((tmp_path / "key").glob("*.npz"))
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"")
    content = bytearray(files[2].read_bytes())
    content[content.index(found.descriptors[8:12].tobytes()) + 2] ^= 1
    files[2].write_bytes(content)
    again = Counting()
    assert np.array_equal(described(photos, again, cache=cache).descriptors, found.descriptors)
    assert again.batches == 6
    assert caplog.text.count("computed again: ") == 3


def test_what_cannot_be_read_is_left_out_and_tried_again(tmp_path, photos, small_chunks):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    paths = [*photos[:3], broken, *photos[3:]]
    cache = DescriptorCache(tmp_path / "key")
    with pytest.raises(InputError, match=r"broken.jpg: expected an image"):
        described(paths, cache=cache)
    for computed in (11, 0):
        counting = Counting()
        found = described(paths, counting, cache=cache, skip_unreadable=True)
        assert counting.batches == computed
        assert found.readable.tolist() == [True] * 3 + [False] + [True] * 18
        assert len(found.reasons) == 1 and "broken.jpg" in found.reasons[0]
        assert np.array_equal(found.descriptors, described(photos).descriptors)
    broken.write_bytes(b"")
    assert "empty file" in described(paths, cache=cache, skip_unreadable=True).reasons[0]
    broken.write_bytes(photos[5].read_bytes())
    mended = Counting()
    found = described(paths, mended, cache=cache, skip_unreadable=True)
    assert found.reasons == () and found.readable.all()
    assert mended.batches == 2  # its chunk alone
    assert np.array_equal(found.descriptors[3], described(photos).descriptors[5])
    assert described(paths, mended, cache=cache).reasons == () and mended.batches == 2


def test_one_of_two_that_is_whole_again(tmp_path, photos, small_chunks):
    paths = [tmp_path / f"{index}.jpg" for index in range(3)]
    for path in paths[1:]:
        path.write_bytes(b"no image")
    paths[0].write_bytes(photos[0].read_bytes())
    cache = DescriptorCache(tmp_path / "key")
    assert len(described(paths, cache=cache, skip_unreadable=True).reasons) == 2
    paths[2].write_bytes(photos[2].read_bytes())
    found = described(paths, cache=cache, skip_unreadable=True)
    assert found.readable.tolist() == [True, False, True]
    assert np.array_equal(found.descriptors, described([photos[0], photos[2]]).descriptors)


def test_a_store_that_is_away_makes_no_image_unreadable(photos, monkeypatch):
    def away(path):
        raise OutOfReach(f"{path}: expected to reach the object store")

    monkeypatch.setattr(reading, "load_image", away)
    with pytest.raises(InputError, match="00.jpg: expected to reach the object store"):
        described(photos, skip_unreadable=True)


def test_images_that_were_turned_are_counted(tmp_path, photos, small_chunks):
    for index, path in enumerate(photos[:9]):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = index
        with Image.open(path) as image:
            image.save(tmp_path / path.name, exif=exif)
    turned = sorted(tmp_path.iterdir())
    cache = DescriptorCache(tmp_path / "key")
    for _ in range(2):
        found = described([*turned, *photos[9:]], cache=cache)
        assert found.num_turned == 7  # not 0, which means nothing, nor 1
    assert described(photos).num_turned == 0


def test_a_known_unreadable_image_still_ends_a_strict_run(tmp_path, photos, small_chunks):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    cache = DescriptorCache(tmp_path / "key")
    described([*photos, broken], cache=cache, skip_unreadable=True)
    with pytest.raises(InputError, match=r"broken.jpg: expected an image"):
        described([*photos, broken], cache=cache)


def no_folder(home):
    home.write_text("a file")


def not_there(home):
    home.symlink_to("/proc/nope")


def a_folder_in_the_way(home):
    (home / "00000000-00000004.npz").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [no_folder, not_there, a_folder_in_the_way])
def test_a_cache_that_cannot_be_used_is_one_warning(tmp_path, photos, small_chunks, caplog, spoil):
    spoil(tmp_path / "home")
    warn = OneWarning()
    for _ in range(2):
        cache = DescriptorCache(tmp_path / "home", warn)
        assert np.array_equal(
            described(photos, cache=cache).descriptors, described(photos).descriptors
        )
    assert len(caplog.records) == 1
    assert "MIXVPR_HOME" in caplog.text and "--cache-gigabytes 0" in caplog.text


def test_a_disk_that_fills_up_is_one_warning(tmp_path, photos, small_chunks, caplog, monkeypatch):
    cache = DescriptorCache(tmp_path / "key")
    saved, save = [], np.savez

    def savez(file, **arrays):
        saved.append(file)
        if len(saved) > 2:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    whole = described(photos).descriptors
    assert np.array_equal(described(photos, cache=cache).descriptors, whole)
    assert len(saved) == 3 and len(list((tmp_path / "key").iterdir())) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    again = Counting()
    assert np.array_equal(described(photos, again, cache=cache).descriptors, whole)
    assert again.batches == 7  # two chunks of two are known


def test_two_processes_share_the_images(tmp_path, photos):
    script = Path(__file__).with_name("two_describing.py")
    arguments = [sys.executable, str(script), str(tmp_path), str(photos[0].parent)]
    with subprocess.Popen([*arguments, "1"]) as other:
        subprocess.run([*arguments, "0"], check=True, timeout=300)
        assert other.wait(60) == 0
    whole = described(photos).descriptors
    for process in range(2):
        found = np.load(tmp_path / f"{process}.npz")
        assert found["num_turned"] == 0
        assert found["counts"].tolist() == [2**31 + 5, 3]
        for name, array in numbers(0).items():
            expected = np.concatenate([array, numbers(1)[name]])
            assert found[name].dtype == array.dtype and found[name].tobytes() == expected.tobytes()
        assert np.array_equal(found["descriptors"], whole)
        assert 0 < int(found["batches"]) < 11
        assert "broken.jpg: expected an image" in str(found["error"])
