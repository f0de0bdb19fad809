"""Batches that do not come: the run ends with a line in place of waiting for ever."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace

import pytest
from tables import write_city

from mixvpr_jax import InputError
from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.data.loader import Batches, read_batches
from mixvpr_jax.data.sources import FolderSource, Sampler, open_source

NO_BATCH = r"no batch came for {} s: a process that decodes hangs, or the disk"


@pytest.fixture
def batches(tmp_path):
    write_city(tmp_path, "Rome", places=7)
    config = DataConfig(
        tmp_path, ("Rome",), 4, 3, 3, augmentation=AugmentationConfig(canvas=(40, 40))
    )
    source = open_source(replace(config, timeout_seconds=2))
    sampler = Sampler(source.places, replace(config, timeout_seconds=2), 5)
    return Batches(source, sampler, (20, 24), 16, 200, False)


@dataclass(frozen=True, eq=False)
class Hanging(FolderSource):
    """A disk that does not answer any more after a while."""

    def read(self, image):
        if image % 5 == 4:
            time.sleep(60)
        return super().read(image)


def test_a_disk_that_hangs(batches):
    source = Hanging(batches.source.root, batches.source.places)
    since = time.monotonic()
    with pytest.raises(InputError, match=NO_BATCH.format(2)):
        list(read_batches(replace(batches, source=source), num_workers=0))
    assert time.monotonic() - since < 30


def test_a_worker_that_is_stopped(batches):
    patient = replace(batches.sampler.config, timeout_seconds=15)  # a worker starts within it
    sampler = replace(batches.sampler, config=patient)
    reader = read_batches(replace(batches, sampler=sampler), num_workers=1)
    next(reader)
    workers = multiprocessing.active_children()
    try:
        for worker in workers:
            os.kill(worker.pid, signal.SIGSTOP)
        since = time.monotonic()
        with pytest.raises(InputError, match=NO_BATCH.format(15)):
            list(reader)
        assert time.monotonic() - since < 45
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)


def test_a_slow_reader_of_batches_is_not_their_fault(batches):
    reader = read_batches(batches, num_workers=0)
    next(reader)
    time.sleep(2.5)  # as long as a step that compiles
    next(reader)
    reader.close()
