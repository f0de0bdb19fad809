"""Places of GSV-Cities' layout, the official order of batches, and the images in them."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mixvpr_jax.config.training import GSV_CITIES
from mixvpr_jax.data.gsv_cities import COLUMNS, Place, read_places
from mixvpr_jax.data.loader import read_batches
from mixvpr_jax.data.sampling import Sampler
from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import Preprocess

CITIES = {"Rome": 7, "Oslo": 5}


def fake_places(images=6):
    return [
        Place(city, number, tuple(f"{city}/{number}/{i}.jpg" for i in range(images)))
        for city, count in CITIES.items()
        for number in range(count)
    ]


def write_table(root, city, rows):
    (root / "Dataframes").mkdir(exist_ok=True)
    lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
    (root / "Dataframes" / f"{city}.csv").write_text("\n".join(lines) + "\n")


def row(place, city="Rome", panoid="abc", **other):
    values = {"year": 2012, "month": 3, "northdeg": 7, "lat": "41.9", "lon": "12.50"} | other
    when = (values["year"], values["month"], values["northdeg"])
    return (place, *when, city, values["lat"], values["lon"], panoid)


def test_names_are_the_official_ones(tmp_path):
    write_table(tmp_path, "Rome", [row(12), row(12, panoid="x-_9"), row(3, month=11)])
    first, second = read_places(tmp_path, ["Rome"])
    assert (first.place_id, second.place_id) == (3, 12)
    assert first.images == ("Images/Rome/Rome_0000003_2012_11_007_41.9_12.50_abc.jpg",)
    assert second.images[1] == "Images/Rome/Rome_0000012_2012_03_007_41.9_12.50_x-_9.jpg"


def test_places_with_few_images_are_left_out(tmp_path):
    write_table(tmp_path, "Rome", [row(1), row(2), row(2, panoid="b")])
    assert [place.place_id for place in read_places(tmp_path, ["Rome"], min_images=2)] == [2]
    with pytest.raises(InputError, match="places of 3 images or more, found none among 2"):
        read_places(tmp_path, ["Rome"], min_images=3)


def test_the_generated_town_is_read(town):
    places = read_places(town / "train", ["Avalon", "Brigadoon"])
    assert [place.city for place in places] == ["Avalon"] * 7 + ["Brigadoon"] * 7
    for place in places:
        assert len(place.images) == 5
        for image in place.images:
            assert (town / "train" / image).is_file()


def test_official_order():
    """Every place once an epoch, cities in their order, shuffled within, the last batch short."""
    sampler = Sampler(fake_places(), 4, 3, seed=1)
    assert sampler.steps_per_epoch == 3
    epoch = sampler.epoch(0)
    assert [len(batch) for batch in epoch] == [12, 12, 12]
    order = [label for batch in epoch for _, label in batch][::3]
    assert sorted(order) == list(range(12))
    assert sorted(order[:7]) == list(range(7)) != order[:7]  # Rome first, shuffled
    for batch in epoch:
        for start in range(0, len(batch), 3):
            names, labels = zip(*batch[start : start + 3], strict=True)
            assert len(set(labels)) == 1
            assert len(set(names)) == 3
            assert set(names) <= set(sampler.places[labels[0]].images)
    short = Sampler(fake_places()[:5], 4, 3, seed=1)
    assert [len(batch) for batch in short.epoch(0)] == [12, 3]


def test_epochs_differ_and_repeat():
    sampler = Sampler(fake_places(), 4, 3, seed=1)
    again = Sampler(fake_places(), 4, 3, seed=1)
    other = Sampler(fake_places(), 4, 3, seed=2)
    assert sampler.epoch(4) == again.epoch(4)
    assert all(one != two for one, two in pairwise([sampler.epoch(i) for i in range(5)]))
    assert sampler.epoch(0) != other.epoch(0)


def test_every_image_is_drawn_in_time():
    sampler = Sampler(fake_places(6), 12, 2, seed=0)
    seen = {name for epoch in range(40) for batch in sampler.epoch(epoch) for name, _ in batch}
    assert len(seen) == 12 * 6


def test_batches_hold_the_images_of_their_plan(town):
    places = read_places(town / "train", ["Avalon"])
    sampler, preprocess = Sampler(places, 4, 2, seed=3), Preprocess((20, 24))
    batches = list(read_batches(town / "train", sampler, preprocess, range(1, 5), 10))
    plans = [*sampler.epoch(0)[1:], *sampler.epoch(1), *sampler.epoch(2)[:1]]
    assert len(batches) == len(plans) == 4
    for batch, plan in zip(batches, plans, strict=True):
        assert batch.images.shape == (10, 20, 24, 3)
        assert batch.labels.tolist() == [label for _, label in plan] + [-1] * (10 - len(plan))
        for image, (name, _) in zip(batch.images, plan, strict=False):
            expected = Image.open(town / "train" / name).resize((24, 20), Image.Resampling.BILINEAR)
            assert np.array_equal(image, np.asarray(expected))
        assert not batch.images[len(plan) :].any()


def test_an_unreadable_image_is_named(town, tmp_path):
    write_table(tmp_path, "Rome", [row(1), row(1, panoid="b")])
    sampler = Sampler(read_places(tmp_path, ["Rome"]), 2, 2, seed=0)
    with pytest.raises(InputError, match=r"Rome_0000001_.*expected an image, found no such file"):
        list(read_batches(tmp_path, sampler, Preprocess((20, 24)), range(1), 4))


@pytest.mark.parametrize(
    ("cities", "message"),
    [
        (["Rom"], r"Rom\.csv: no such city; closest: Rome"),
        (["Rome", "Rome"], r"cities: expected each once, found Rome, Rome"),
        (["Bad"], r"Bad\.csv: expected columns panoid, found none such"),
        (["Worse"], r"Worse\.csv: line 3: expected whole numbers, found .*'year': 'x'"),
        (["Short"], r"Short\.csv: line 2: expected whole numbers, found"),
    ],
)
def test_wrong_tables(tmp_path, cities, message):
    write_table(tmp_path, "Rome", [row(1)])
    (tmp_path / "Dataframes" / "Bad.csv").write_text(",".join(COLUMNS[:-1]) + "\n")
    write_table(tmp_path, "Worse", [row(1), row(1, year="x")])
    write_table(tmp_path, "Short", [(4, 2012)])
    with pytest.raises(InputError, match=message):
        read_places(tmp_path, cities)


def test_no_data_set(tmp_path):
    with pytest.raises(InputError, match=r"expected GSV-Cities \(Dataframes and Images\)"):
        read_places(tmp_path, ["Rome"])


def test_official_cities():
    assert len(set(GSV_CITIES)) == 23
