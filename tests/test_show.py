"""The contact sheet of a batch, and the statistics of its data set."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import tiny_config
from tables import names_of

from mixvpr_jax.data.config import AugmentationConfig
from mixvpr_jax.data.sources import Sampler, open_source
from mixvpr_jax.errors import InputError
from mixvpr_jax.training import show as show_module
from mixvpr_jax.training.show import CAPTION, MARGIN, THUMBNAIL, show

ROOT = Path(__file__).parent.parent


def plain(town):
    """Without augmentation, so that the pictures can be recognised."""
    config = tiny_config(town)
    return replace(config, data=replace(config.data, augmentation=AugmentationConfig(0)))


def recorded(monkeypatch, module, name):
    """What a function or class of a module is called with, each time."""
    calls, real = [], getattr(module, name)

    def call(*arguments, **options):
        calls.append((arguments, options))
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize("where", ["host", "device"])
def test_the_sheet_is_resized_as_the_model_says(town, tmp_path, monkeypatch, where):
    config = tiny_config(town)
    augmentation = AugmentationConfig(0, on=where)
    config = replace(
        config,
        model=replace(config.model, interpolation="bicubic"),
        data=replace(config.data, augmentation=augmentation),
    )
    pictures = recorded(monkeypatch, show_module, "contact_sheet")
    show(config, tmp_path, step=1)
    images, sampler, step = pictures[0][0]
    source = open_source(config.data)
    for found, image in zip(images, sampler.batch(step)[0].tolist(), strict=False):
        expected = Image.open(town / "train" / source.places.name(image))
        expected = np.asarray(expected.resize((40, 32), Image.Resampling.BICUBIC))
        assert np.abs(found.astype(int) - expected).max() <= (where == "device")


def test_the_sheet_shows_the_batch_place_by_place(town, tmp_path):
    config = plain(town)
    show(config, tmp_path, step=1)
    source = open_source(config.data)
    images, _ = Sampler(source.places, config.data, config.seed).batch(1)
    sheet = Image.open(tmp_path / "contact_sheet.jpg")
    width = round(THUMBNAIL * 40 / 32)
    for index, image in enumerate(images.tolist()):
        row, column = divmod(index // 4, (1680 - MARGIN) // (4 * width + MARGIN))
        left = MARGIN + column * (4 * width + MARGIN) + index % 4 * width
        top = MARGIN + row * (THUMBNAIL + CAPTION + MARGIN) + CAPTION
        found = sheet.crop((left, top, left + width, top + THUMBNAIL))
        expected = Image.open(town / "train" / source.places.name(image))
        expected = expected.resize((40, 32), Image.Resampling.BILINEAR).resize((width, THUMBNAIL))
        off = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
        assert off.mean() < 6  # JPEG


def test_broken_images_are_named(town, tmp_path, caplog):
    config = plain(town)
    root = shutil.copytree(town / "train", tmp_path / "train")
    config = replace(config, data=replace(config.data, root=root))
    places = open_source(config.data).places
    broken = places.name(int(Sampler(places, config.data, config.seed).batch(0)[0][2]))
    (root / broken).write_bytes(b"")
    show(config, tmp_path / "out")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"skipped: {root}/{broken}: ")


def test_statistics(town, tmp_path):
    found = show(plain(town), tmp_path)
    assert found == json.loads((tmp_path / "statistics.json").read_text())
    of_city = {"places": 7, "images": 35}
    assert found == {
        "places": 14,
        "images": 70,
        "cities": {"Avalon": of_city, "Brigadoon": of_city},
        "images_per_place": {"5": 14},
    }
    assert len(names_of(town / "train", "Avalon")) == 35
    with Image.open(tmp_path / "statistics.png") as drawn:
        assert drawn.size[0] > 1000


def test_the_command(town, tmp_path):
    options = ["--data.root", str(town / "train"), "--data.places-per-batch", "3"]
    command = [sys.executable, "-m", "mixvpr_jax.training.show", "--config", "demo", *options]
    output = tmp_path / "out"
    ended = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("14 places, 70 images in 2 cities; look at ")
    files = ["contact_sheet.jpg", "statistics.json", "statistics.png"]
    assert sorted(path.name for path in output.iterdir()) == files
    ended = subprocess.run(
        [*command, "--output", str(tmp_path / "other"), "--step", "99999"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: step: expected 0 to 39, found 99999\n"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("joined", [True, False])
def test_a_recipe_in_a_folder_with_spaces(town, tmp_path, monkeypatch, capsys, joined):
    recipe = tmp_path / "my recipes" / "mine.py"
    recipe.parent.mkdir()
    recipe.write_text(
        "from mixvpr_jax.training import DataConfig, StartConfig, TrainConfig\n"
        f"data = DataConfig({str(town / 'train')!r}, ('Avalon',), places_per_batch=3)\n"
        "config = TrainConfig(StartConfig(image_size=(320, 320)), data)\n"
    )
    named = [f"--config={recipe}"] if joined else ["--config", str(recipe)]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["show", *named, "--output=~/my out"])
    show_module.main()
    sheet = tmp_path / "my out" / "contact_sheet.jpg"
    assert f"7 places, 35 images in 1 cities; look at {sheet} and " in capsys.readouterr().out


def test_a_step_that_is_none(town, tmp_path):
    with pytest.raises(InputError, match="step: expected 0 to 11, found 12"):
        show(tiny_config(town), tmp_path, step=12)
