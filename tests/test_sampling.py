"""Which images a step sees: the official order, its options, and an index of the real size."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mixvpr_jax.data.augmentation import draw_operations
from mixvpr_jax.data.config import GSV_CITIES, DataConfig
from mixvpr_jax.data.gsv_cities import Places
from mixvpr_jax.data.sources import Sampler

ROOT = Path(__file__).parent.parent
COUNTS = (7, 5, 9)
CITIES = ("Rome", "Oslo", "London")


def fake_places(counts=COUNTS, images=6):
    city = np.repeat(np.arange(len(counts)), counts)
    total = len(city)
    return Places(
        CITIES[: len(counts)],
        city,
        np.concatenate([np.arange(count) for count in counts]),
        np.arange(total + 1) * images,
        np.array([f"{index}.jpg" for index in range(total * images)], "S"),
        np.arange(total * images),
        np.random.default_rng(0).permutation(total * images),
    )


def sampler(places=None, seed=1, **options):
    config = DataConfig(None, CITIES, 4, 3, 3, **options)
    return Sampler(places or fake_places(), config, seed)


def epoch_of(sampler, epoch=0):
    """The places of an epoch in order, once each image is seen to be of its place."""
    images, labels = sampler.epoch(epoch)
    size = sampler.config.images_per_place
    for start in range(0, len(images), size):
        own, label = images[start : start + size], set(labels[start : start + size].tolist())
        assert len(label) == 1
        low, high = sampler.places.bounds[label.pop() :][:2]
        assert len(set(own.tolist())) == size
        assert ((own >= low) & (own < high)).all()
    return labels[::size].tolist()


def cities_of(sampler, order):
    return [city for city, before in pairwise([*sampler.places.city[order], -1]) if city != before]


def test_official_order():
    """Every place once an epoch, cities in their order, shuffled within, the last batch short."""
    official = sampler()
    assert official.steps_per_epoch == 6
    order = epoch_of(official)
    assert sorted(order) == list(range(21))
    assert cities_of(official, order) == [0, 1, 2]
    assert sorted(order[:7]) == list(range(7)) != order[:7]
    batches = [official.batch(step) for step in range(12)]
    assert [len(images) for images, _ in batches] == 2 * ([12] * 5 + [3])
    for epoch in (0, 1):
        for part in (0, 1):
            joined = np.concatenate([batch[part] for batch in batches[6 * epoch :][:6]])
            assert np.array_equal(joined, official.epoch(epoch)[part])


def test_cities_in_another_order_each_epoch():
    shuffled = sampler(shuffle_cities=True)
    orders = [epoch_of(shuffled, epoch) for epoch in range(20)]
    assert all(sorted(order) == list(range(21)) for order in orders)
    found = {tuple(cities_of(shuffled, order)) for order in orders}
    assert {len(cities) for cities in found} == {3}  # each city in one piece
    assert len(found) > 3


def test_shuffled_over_all_places():
    mixed = sampler(order="shuffled")
    order = epoch_of(mixed)
    assert sorted(order) == list(range(21))
    assert len(cities_of(mixed, order)) > 6


def test_the_most_recent_images():
    recent = sampler(images="recent")
    for epoch in (0, 1):
        images, labels = recent.epoch(epoch)
        for place in range(21):
            low, high = recent.places.bounds[place : place + 2]
            newest = low + np.argsort(recent.places.age[low:high])[:3]
            assert images[labels == place].tolist() == newest.tolist()


def test_epochs_differ_and_repeat():
    orders = [epoch_of(sampler(), epoch) for epoch in range(5)]
    assert orders == [epoch_of(sampler(), epoch) for epoch in range(5)]
    assert all(one != two for one, two in pairwise(orders))
    later = [epoch_of(sampler(seed=2), epoch) for epoch in range(5)]
    assert all(one != two for one in orders for two in later)  # nor is it the next seed's


def test_every_image_is_drawn_in_time():
    few = sampler(fake_places((12,)))
    seen = {image for epoch in range(40) for image in few.epoch(epoch)[0].tolist()}
    assert len(seen) == 12 * 6


def test_augmentations_are_a_function_of_seed_and_step():
    drawn = sampler().operations(7, 12)
    assert drawn.shape == (12, 3)
    assert np.array_equal(drawn, sampler().operations(7, 12))
    assert not np.array_equal(drawn, sampler().operations(8, 12))
    for step in (6, 7):
        assert not np.array_equal(drawn, sampler(seed=2).operations(step, 12))
    of_the_order = draw_operations(np.random.default_rng([1, 7]), 12, 3)
    assert not np.array_equal(drawn, of_the_order)  # the stream that epoch 7 is shuffled by


@pytest.fixture(scope="module")
def real_size(tmp_path_factory):
    """Tables of 23 cities, 62 thousand places and 530 thousand images, and the images' names."""
    folder = tmp_path_factory.mktemp("real_size")
    (folder / "Dataframes").mkdir()
    (folder / "Images").mkdir()
    rng = np.random.default_rng(0)
    for city in GSV_CITIES:
        lines, names = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"], []
        for place in range(2696):
            latitude, longitude = rng.uniform(10, 60), rng.uniform(-100, 140)
            for image, number in enumerate(
                rng.integers(0, 10**15, int(rng.integers(4, 14))).tolist()
            ):
                year, month, bearing = 2007 + number % 15, 1 + number % 12, number % 360
                where = f"{latitude + 1e-6 * image:.7f}", f"{longitude:.7f}"
                panorama = f"panorama{number:014d}"
                lines.append(
                    f"{place},{year},{month},{bearing},{city},{','.join(where)},{panorama}"
                )
                when = f"{place:07d}_{year:04d}_{month:02d}_{bearing:03d}"
                names.append(f"{city}_{when}_{'_'.join(where)}_{panorama}.jpg")
        (folder / "Dataframes" / f"{city}.csv").write_text("\n".join(lines) + "\n")
        (folder / "Images" / f"{city}.txt").write_text("\n".join(names))
    return folder


MEASURED = """
import json, sys, time
from pathlib import Path
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data import sources
from mixvpr_jax.data.sources import Sampler

def seconds(call):  # of this process alone, however much else the machine does
    since = time.process_time()
    call()
    return time.process_time() - since

def index():
    global source
    source = sources.open_source(config)

config = DataConfig(sys.argv[1])
sources.links_in = lambda folder: dict.fromkeys(
    Path(f"{folder}.txt").read_text().splitlines(), False
)
found = {"index": seconds(index)}
found["epoch"] = seconds(lambda: Sampler(source.places, config, 1).epoch(3))
found["step"] = max(
    seconds(lambda: Sampler(source.places, config, 1).batch(step)) for step in (1, 517, 10**6)
)
status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent, too
found["megabytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
official = Sampler(source.places, config, 190223)
steps = official.steps_per_epoch
batches = [official.batch(step)[1][::4] for step in range(3 * steps, 4 * steps)]
found["in one city"] = sum(len(set(source.places.city[labels])) == 1 for labels in batches) / steps
found["places"] = sorted(label for labels in batches for label in labels.tolist())
found["images"] = len(source.places.names)
print(json.dumps(found))
"""


def test_the_real_size(real_size):
    """Time, memory and the order, from a folder of half a million files, whose listing is faked."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read as Linux tells it")
    command = [sys.executable, "-c", MEASURED, str(real_size)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["index"] < 10
    assert found["epoch"] < 1
    assert found["step"] < 1
    assert found["megabytes"] < 400
    # Batches of the official order hold one city; every place once an epoch, from anywhere.
    assert found["in one city"] >= 0.95
    assert found["places"] == list(range(23 * 2696))
    assert 520_000 < found["images"] < 540_000
