"""Batches as they reach a step: whichever processes and workers read them, the same ones."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tables import names_of, write_city

from mixvpr_jax.data import loader
from mixvpr_jax.data.augmentation import rand_augment
from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.data.loader import Batch, Batches, read_batches
from mixvpr_jax.data.sources import FolderSource, Sampler, open_source
from mixvpr_jax.errors import InputError
from mixvpr_jax.workers import default_num_workers

ROOT = Path(__file__).parent.parent
CITIES = ("Rome", "Oslo")
SIZE = (20, 24)
ARRAYS = Batch._fields[:4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven places in Rome and six in Oslo; four a batch, the last of an epoch short."""
    root = tmp_path_factory.mktemp("two_cities")
    write_city(root, "Rome", places=7)
    return write_city(root, "Oslo", places=6, size=(30, 40))


FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def make(
    folder, *, on_host=False, cities=CITIES, augmentation=None, interpolation="bilinear", **changes
):
    augmentation = augmentation or AugmentationConfig(canvas=(40, 40))
    config = DataConfig(folder, cities, 4, 3, 3, augmentation=augmentation)
    config = replace(config, **changes)
    source = open_source(config)
    sampler = Sampler(source.places, config, 5)
    return Batches(source, sampler, SIZE, 16, 12, on_host, interpolation=interpolation)


def read(batches, start=0, num_workers=0, count=None, prefetch=2):
    found = []
    reader = read_batches(batches, start, num_workers=num_workers, prefetch=prefetch)
    for batch in reader:
        found.append(batch._replace(**{name: np.array(getattr(batch, name)) for name in ARRAYS}))
        if len(found) == count:
            break
    reader.close()
    return found


def test_no_thread_outlives_its_reader(folder):
    """Grain's keep a process that ends, where the batch that they wait for does not come."""
    for _ in range(3):
        read(make(folder), count=1)
    deadline = time.monotonic() + 20
    while any(thread.name.startswith("grain") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for batch, again in zip(one, other, strict=True):
        for array, twin in zip(batch[:4], again[:4], strict=True):
            np.testing.assert_array_equal(array, twin)


@pytest.fixture(scope="module")
def expected(folder):
    """Three epochs, read without grain."""
    batches = make(folder)
    return [batches[step] for step in range(12)]


def test_batches_hold_what_the_sampler_says(folder, expected):
    batches = make(folder)
    for step, batch in enumerate(expected):
        images, labels = batches.sampler.batch(step)
        count = len(images)
        assert batch.images.shape == (16, 40, 40, 3)
        assert batch.labels.tolist() == labels.tolist() + [-1] * (16 - count)
        assert np.array_equal(batch.operations[:count], batches.sampler.operations(step, count))
        assert not batch.operations[count:].any()
        for row, image in enumerate(images.tolist()):
            path = folder / batches.source.places.name(image)
            height, width = batch.sizes[row]
            pixels = np.asarray(Image.open(path))
            np.testing.assert_array_equal(batch.images[row, :height, :width], pixels)
            assert not batch.images[row, height:].any()
        assert not batch.images[count:].any()


@pytest.mark.parametrize("interpolation", FILTERS)
def test_the_host_resizes_and_augments_where_it_should(folder, interpolation):
    raw, finished = make(folder), make(folder, on_host=True, interpolation=interpolation)
    for step in (0, 3):
        batch, done = raw[step], finished[step]
        assert done.images.shape == (16, *SIZE, 3)
        assert not done.operations.any()
        assert np.array_equal(batch.labels, done.labels)
        for row in range((batch.labels >= 0).sum()):
            height, width = batch.sizes[row]
            image = Image.fromarray(batch.images[row, :height, :width])
            image = image.resize((SIZE[1], SIZE[0]), FILTERS[interpolation])
            image = rand_augment(image, batch.operations[row], 9)
            np.testing.assert_array_equal(done.images[row], np.asarray(image))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_what_is_larger_than_the_canvas_is_resized_before(folder, interpolation):
    augmentation = AugmentationConfig(canvas=(30, 40))
    small = make(folder, augmentation=augmentation, interpolation=interpolation)
    whole = make(folder)
    tall = 0
    for step in range(4):
        batch = small[step]
        assert batch.images.shape == (16, 30, 40, 3)
        for row in np.flatnonzero(whole[step].sizes[:, 0] == 40):
            tall += 1
            assert batch.sizes[row].tolist() == list(SIZE)
            image = Image.fromarray(whole[step].images[row, :40, :30])
            image = image.resize((SIZE[1], SIZE[0]), FILTERS[interpolation])
            np.testing.assert_array_equal(batch.images[row, : SIZE[0], : SIZE[1]], image)
    assert tall == 6 * 3


@dataclass(frozen=True, eq=False)
class Counted(FolderSource):
    """Writes down what it decodes, in whichever process."""

    log: str

    def read(self, image):
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{image}\n".encode())
        os.close(descriptor)
        return super().read(image)


def counted(batches, log):
    """Batches that are counted, and a function that tells the images decoded so far."""
    source = Counted(batches.source.root, batches.source.places, str(log))
    return replace(batches, source=source), lambda: list(map(int, log.read_text().split()))


@pytest.mark.parametrize(("processes", "num_workers"), [(1, 0), (2, 0), (4, 0), (1, 3), (2, 1)])
def test_processes_and_workers_share_the_same_global_batches(
    folder, expected, processes, num_workers, tmp_path
):
    """Every place once an epoch, every image decoded by one worker, and none in vain."""
    batches, decoded = counted(make(folder), tmp_path / "log")
    shares = [
        read(replace(batches, process_index=index, process_count=processes), 0, num_workers)
        for index in range(processes)
    ]
    joined = [
        batches[0]._replace(
            **{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in ARRAYS}
        )
        for batches in zip(*shares, strict=True)
    ]
    assert_same(joined, expected)
    epochs = [joined[start : start + 4] for start in (0, 4, 8)]
    for epoch in epochs:
        labels = np.concatenate([batch.labels for batch in epoch])
        assert sorted(labels[labels >= 0].tolist()) == sorted(3 * list(range(13)))
    wanted = [image for step in range(12) for image in batches.sampler.batch(step)[0]]
    assert sorted(decoded()) == sorted(wanted)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), max_size=6))
def test_broken_off_and_resumed_anywhere_the_stream_is_the_same(folder, expected, cuts):
    found = []
    for count, prefetch in [*cuts, (None, 2)]:
        if len(found) < 12:
            found += read(make(folder), len(found), 0, count, prefetch)
    assert_same(found, expected)


def test_broken_off_and_resumed_with_other_workers(folder, expected):
    first, second = sorted(random.sample(range(1, 12), 2))
    found = read(make(folder), 0, 2, first)
    found += read(make(folder), first, 0, second - first)
    found += read(make(folder), second, 1)
    assert_same(found, expected)


@pytest.mark.parametrize(("num_workers", "most"), [(0, 2), (1, 4)])
def test_batches_ahead_are_as_many_as_wanted(folder, tmp_path, monkeypatch, num_workers, most):
    """However many processors there are: a batch of the real size is 184 MB."""
    monkeypatch.setattr(loader, "num_processors", lambda: 7)
    batches, decoded = counted(replace(make(folder), num_steps=100), tmp_path / "log")
    reader = read_batches(batches, num_workers=num_workers, prefetch=2)
    next(reader)
    before = []
    while before != (before := decoded()):
        time.sleep(0.3)
    steps = [len(batches.sampler.batch(step)[0]) for step in range(8)]
    assert len(before) <= sum(steps[: 1 + most])
    reader.close()


def test_too_little_memory_to_share(folder, monkeypatch):
    """As in a container; said before any process is started."""
    usage = loader.shutil.disk_usage(folder)._replace(free=100_000)
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(loader, "SHARED_MEMORY", folder)
    line = r"expected 0\.00 GB to share with .* --shm-size\), or fewer processes \(--data\.num-wor"
    with pytest.raises(InputError, match=line):
        read(make(folder), num_workers=2)
    assert not multiprocessing.active_children()


def test_broken_images_are_skipped_and_counted(tmp_path, caplog):
    names = names_of(write_city(tmp_path, places=4))
    for name in names[:2]:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-300])
    (tmp_path / names[2]).write_bytes(b"")
    batches = make(tmp_path, cities=("Rome",), images_per_place=4, min_images_per_place=4)
    batches = replace(batches, num_steps=1)
    for num_workers in (0, 1):
        caplog.clear()
        (batch,) = read(batches, num_workers=num_workers)
        assert (batch.labels >= 0).sum() == 16 - 3
        bad = np.flatnonzero(batch.labels[: len(batches.sampler.batch(0)[0])] < 0)
        assert not batch.images[bad].any()
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 3
        for name in names[:3]:
            assert any(name in line and line.startswith("skipped: ") for line in lines)
    for allowed in (3, 2):
        config = replace(batches.sampler.config, max_unreadable=allowed)
        limited = replace(batches, sampler=replace(batches.sampler, config=config))
        if allowed == 3:
            assert len(read(limited)) == 1
            continue
        with pytest.raises(InputError, match=r"expected at most 2 broken images \(data\.max_unr"):
            read(limited)


def test_a_broken_image_counts_once(tmp_path, caplog):
    """However many epochs find it."""
    name = names_of(write_city(tmp_path, places=4))[5]
    (tmp_path / name).write_bytes(b"")
    every = {"images_per_place": 4, "min_images_per_place": 4, "max_unreadable": 1}
    batches = make(tmp_path, cities=("Rome",), **every)
    found = read(batches)
    assert [(batch.labels < 0).sum() for batch in found] == [1] * 12
    (record,) = caplog.records
    assert name in record.getMessage()


def test_a_worker_that_is_killed_ends_the_reading(folder):
    reader = read_batches(replace(make(folder), num_steps=10**6), num_workers=2, prefetch=1)
    next(reader)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="exit code -9"):
        for _ in reader:
            pass
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children()


class Exploding(FolderSource):
    """A source with a bug in it."""

    def read(self, image):
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_worker_that_fails_shows_where(folder, num_workers):
    batches = make(folder)
    batches = replace(batches, source=Exploding(batches.source.root, batches.source.places))
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        read(batches, num_workers=num_workers)
    shown = "".join(str(entry.path) for entry in caught.traceback)
    assert "loader.py" in shown


def test_reading_ends_its_workers(folder):
    reader = read_batches(make(folder), num_workers=2)
    next(reader)
    assert len(multiprocessing.active_children()) == 2
    reader.close()
    assert not multiprocessing.active_children()


ENDLESS = """
import sys
from test_loader import make, read_batches, replace
from pathlib import Path
if __name__ == "__main__":
    reader = read_batches(replace(make(Path(sys.argv[1])), num_steps=10**6), num_workers=2)
    for batch in reader:
        print(batch.labels[0], flush=True)
"""


def test_workers_end_with_a_process_that_is_killed(folder, tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.kill()
        process.communicate(timeout=60)  # until nobody holds the other end of the pipe


def test_workers_suit_the_machine(monkeypatch):
    for processors, workers in ((2, 0), (7, 0), (8, 6), (16, 8), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        assert default_num_workers() == workers
