"""Which images a step sees: the official order, its options, and an index of the real size."""

from itertools import pairwise

import numpy as np
import pytest

from mixvpr_jax.config import GSV_CITIES, DataConfig
from mixvpr_jax.data.gsv_cities import Places, read_places
from mixvpr_jax.data.sampling import Sampler

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
    assert epoch_of(sampler(seed=2)) != orders[0]


def test_every_image_is_drawn_in_time():
    few = sampler(fake_places((12,)))
    seen = {image for epoch in range(40) for image in few.epoch(epoch)[0].tolist()}
    assert len(seen) == 12 * 6


def test_augmentations_are_a_function_of_seed_and_step():
    drawn = sampler().operations(7, 12)
    assert drawn.shape == (12, 3)
    assert np.array_equal(drawn, sampler().operations(7, 12))
    assert not np.array_equal(drawn, sampler().operations(8, 12))
    assert not np.array_equal(drawn, sampler(seed=2).operations(7, 12))


@pytest.fixture(scope="module")
def real_size(tmp_path_factory):
    """Tables of 23 cities, 62 thousand places and 530 thousand images."""
    folder = tmp_path_factory.mktemp("real_size")
    (folder / "Dataframes").mkdir()
    rng = np.random.default_rng(0)
    for city in GSV_CITIES:
        lines = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"]
        for place in range(2696):
            latitude, longitude = rng.uniform(10, 60), rng.uniform(-100, 140)
            for image, number in enumerate(rng.integers(0, 10**15, int(rng.integers(4, 14)))):
                when = f"{2007 + number % 15},{1 + number % 12},{number % 360}"
                where = f"{latitude + 1e-6 * image:.7f},{longitude:.7f},panorama{number:014d}"
                lines.append(f"{place},{when},{city},{where}")
        (folder / "Dataframes" / f"{city}.csv").write_text("\n".join(lines) + "\n")
    return read_places(folder, GSV_CITIES, min_images=4)


def test_the_real_size(real_size):
    """Batches of the official order hold one city; every place once an epoch, from anywhere."""
    assert len(real_size) == 23 * 2696
    assert 520_000 < len(real_size.names) < 540_000
    official = Sampler(real_size, DataConfig(), 190223)
    steps = official.steps_per_epoch
    single, seen = 0, []
    for step in range(3 * steps, 4 * steps):
        _, labels = official.batch(step)
        single += len(np.unique(real_size.city[labels])) == 1
        seen += labels[::4].tolist()
    assert single / steps >= 0.95
    assert sorted(seen) == list(range(len(real_size)))
