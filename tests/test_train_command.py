"""train.py as a command: recipes, options, and one line for what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from runs import ROOT, command, finish, has_reached, start

from mixvpr_jax import GeMConfig, InputError, MixVPRConfig, SALADConfig
from mixvpr_jax.losses import LOSSES
from mixvpr_jax.losses.mining import MINERS
from mixvpr_jax.training import DataConfig, OptimizerConfig, StartConfig
from mixvpr_jax.training import command as train_command
from mixvpr_jax.training.config import LossName, MinerName, TrainConfig

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))


def run(*arguments):
    process = subprocess.run(
        [sys.executable, "train.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    return process.returncode, process.stdout, process.stderr


def test_recipes_are_listed():
    status, output, _ = run()
    assert status == 0
    assert [line.split()[0] for line in output.split("recipes:\n")[1].splitlines()] == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_typed_value_that_says_what_it_costs(name):
    module = __import__(f"configs.{name}", fromlist=["config"])
    assert isinstance(module.config, TrainConfig)
    assert f"mixvpr train {name} --workdir" in module.__doc__
    told = dict(re.findall(r"^(\w+): (.*(?:\n\S.*)*?)(?=\n\w+: |\n*\Z)", module.__doc__, re.M))
    assert told.keys() == {"Hardware", "Time", "Recall"}
    assert re.search(r"on (a GPU|two CPU cores)", told["Time"])  # of which machine
    assert re.search(r"R@1 \d\d\.\d on ", told["Recall"])
    json.dumps(module.config.to_dict(), allow_nan=False)


def test_names_of_losses_and_miners_are_those_that_exist():
    assert set(LossName.__args__) == set(LOSSES)
    assert set(MinerName.__args__) == set(MINERS)


def test_former_names_of_options_are_read(tmp_path):
    """Former options still work; an invalid value is reported under the present name."""
    former = ("--chunks=0", "--freeze-statistics", "--no-statistics-per-device")
    status, _, errors = run("demo", "--workdir", tmp_path / "run", *former)
    line = "error: grad_cache_chunks: expected a number above 0, found 0\n"
    assert (status, errors) == (2, line)


def test_unknown_recipe():
    status, output, errors = run("resnet50_mixvpr_409", "--workdir", "x")
    assert (status, output) == (2, "")
    assert errors.startswith("error: resnet50_mixvpr_409: no such recipe in configs/; closest: ")
    assert errors.count("\n") == 1


def test_options_before_the_name():
    status, output, errors = run("--workdir", "x")
    assert (status, output) == (2, "")
    line = "error: --workdir: no such recipe in configs/, whose name comes before all options; "
    assert errors.startswith(f"{line}known: demo, ") and errors.count("\n") == 1


def test_unknown_field_names_the_closest(tmp_path):
    status, _, errors = run("demo", "--workdir", tmp_path / "run", "--optimizer.learning-rte", "1")
    assert status == 2
    assert "--optimizer.learning-rate" in errors
    assert not (tmp_path / "run").exists()


def test_value_that_makes_no_sense(tmp_path):
    status, _, errors = run("demo", "--workdir", tmp_path / "run", "--data.places-per-batch", 1)
    assert status == 2
    assert "places_per_batch: expected 2 or more, found 1: there are no negatives" in errors


@pytest.mark.parametrize(
    "arch, model, size, line",
    [
        ("dinov2_vits14", {}, (224,), r"image_size: expected \(height, width\), found \(224,\)"),
        ("dinov2_vits14", {}, 224, r"image_size: expected \(height, width\), found 224"),
        ("dinov2_vits14", {}, (100, 112), "data.image_size: expected multiples of 14 .* 98x112"),
        ("resnet18", {"aggregator": MixVPRConfig()}, (320, 400), "feature map of 10x10, for which"),
        (
            "dinov2_vits14",
            {"aggregator": SALADConfig()},
            (98, 98),
            r"data.image_size: .* more positions than SALAD has clusters \(64\), found 49",
        ),
    ],
)
def test_sizes_of_training_images(arch, model, size, line):
    image_size = (322, 322) if "dino" in arch else (320, 320)
    whole = StartConfig(arch, (), **{"aggregator": GeMConfig(), **model}, image_size=image_size)
    optimizer = OptimizerConfig(layers_to_freeze=None)
    assert TrainConfig(whole, DataConfig(image_size=image_size), optimizer).image_size == image_size
    with pytest.raises(InputError, match=line):
        TrainConfig(whole, DataConfig(image_size=size), optimizer)


def test_wrong_input_is_one_line(town, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 3}))
    status, output, errors = finish(start(command(town, tmp_path)))
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: {tmp_path}: a run of another configuration (")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def worker_of(process):
    """The process that decodes for another."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:  # it ended meanwhile
            continue
    return None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a process in /proc")
def test_a_worker_that_is_killed_ends_the_run(town, tmp_path):
    """With a traceback, and soon."""
    options = ("--data.num-workers", 1, "--epochs", 1000)
    process = start(command(town, tmp_path, *options))
    while not has_reached(tmp_path, 1):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(worker_of(process), signal.SIGKILL)
    status, _, errors = finish(process, timeout=120)
    assert status == 1
    assert "Traceback (most recent call last)" in errors
    assert "Worker process was terminated unexpectedly with exit code -9" in errors


def test_a_folder_that_cannot_be_made(town):
    status, output, errors = finish(start(command(town, "/proc/run")))
    assert (status, output) == (2, "")
    assert "/proc/run" in errors
    assert errors.count("\n") == 1


def test_the_model_card_tells_the_command_without_paths(monkeypatch):
    told = []
    monkeypatch.setattr("mixvpr_jax.programs.keep_programs", lambda: None)
    monkeypatch.setattr("mixvpr_jax.programs.keep_memory", lambda: None)
    monkeypatch.setattr("mixvpr_jax.distributed.joined", lambda *_, **__: nullcontext())
    monkeypatch.setattr(train_command, "train_and_tell", lambda *given: told.append(given[-1]))
    words = ["demo", "--workdir", "/home/me/runs/a b", "--data.root=/data/mine", "--epochs", "2"]
    train_command.parse(words, "mixvpr train")
    assert told == ["mixvpr train demo --workdir 'a b' --data.root=mine --epochs 2"]
