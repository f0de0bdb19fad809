"""The programs of examples/ do what their first lines say."""

import os
import re
from dataclasses import replace

import pytest
from PIL import ExifTags, Image

from configs.demo import config
from demo.town import CityConfig, draw_view, write_evaluation_folders
from examples.localize import localize
from examples.loop_closure import loop_closure
from mixvpr_jax import InputError, PlaceMap, create_model, save_pretrained
from mixvpr_jax.cli import parse

# In even light, a network needs no training to know the places of a town.
EASY = CityConfig(num_places=24, images_per_place=2, image_size=(120, 160), difficulty=0.0)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_pretrained(create_model(config.model.architecture, seed=0), folder)
    return str(folder)


def test_the_loop_is_found_at_the_threshold_of_the_calibration(untrained, tmp_path, capsys):
    file = tmp_path / "map.safetensors"
    loop_closure(untrained, EASY, calibration_drives=1, sequence_length=1, output=file)
    first, *backs, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"calibration: of 25 frames, .* all of them right: \d\d% of .*", first)
    assert last == f"found {len(backs)} of 12 loop frames, 0 wrong; map: {file}"
    assert len(backs) >= 8
    for line in backs:  # the first 24 frames show what was never there before
        frame, place = map(int, re.findall(r"frame (\d+): back at place (\d+)", line)[0])
        assert frame == 24 + place
    place_map = PlaceMap.load(file)
    assert place_map.labels == [f"place {place}" for place in (*range(24), *range(12))]


def test_a_model_that_finds_nothing(untrained, tmp_path):
    hard = CityConfig(num_places=20, images_per_place=2, image_size=(32, 32), difficulty=1.0)
    with pytest.raises(InputError, match="expected a model that finds loops"):
        loop_closure(untrained, hard, calibration_drives=1, output=tmp_path / "map.safetensors")
    with pytest.raises(InputError, match="num_places: expected at least 20"):
        loop_closure(untrained, replace(hard, num_places=19))


def test_a_photo_is_localized(untrained, tmp_path, capsys):
    photos, _ = write_evaluation_folders(EASY, tmp_path)
    for path in sorted(photos.iterdir()):
        place = int(re.search(r"place(\d+)", path.name)[1])
        exif = Image.Exif()
        gps = {1: "N", 2: (48.0, float(place), 0.0), 3: "W", 4: (11.0, 30.0, 0.0)}
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
        Image.open(path).save(path, exif=exif, quality=95)
    best = next(path for path in photos.iterdir() if "place0006" in path.name)
    best.rename(photos / os.fsdecode(b"place0006 caf\xe9.jpg"))  # not UTF-8
    command = [str(photos), "-o", str(tmp_path / "map.npy"), "--weights", untrained]
    parse("describe", command, "mixvpr describe")
    draw_view(EASY, 6, 1).save(photo := tmp_path / "photo.png")
    capsys.readouterr()
    localize(photo, photos, tmp_path / "map.npy", untrained, k=2)
    best, _ = capsys.readouterr().out.splitlines()
    score, name, where = best.split("  ")
    assert name == r"place0006 caf\udce9.jpg" and 0.9 < float(score) < 1
    assert where == "latitude 48.100000, longitude -11.500000"
