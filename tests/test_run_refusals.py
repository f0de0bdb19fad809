"""What a run refuses, in one line and before it writes anything."""

import errno
import json
import math
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import command, finish, small_disk, start, tiny_config, told

from configs import demo
from mixvpr_jax.checks import differences
from mixvpr_jax.data.config import AugmentationConfig, DataConfig
from mixvpr_jax.data.prepare import prepare_gsv_cities
from mixvpr_jax.errors import InputError
from mixvpr_jax.models.config import MixVPRConfig, ModelConfig
from mixvpr_jax.storage import named_when_full
from mixvpr_jax.training.config import (
    OptimizerConfig,
    StartConfig,
    TrainConfig,
    ValidationConfig,
    require_same_run,
)
from mixvpr_jax.training.loop import Setup, train
from mixvpr_jax.training.start import check_workdir


def test_the_folder_of_another_configuration(finished, town):
    config = tiny_config(town)
    other = replace(config, epochs=9, optimizer=replace(config.optimizer, learning_rate=0.5))
    line = r"another configuration \(optimizer.learning_rate: 0.001 there, 0.5 here\); choose"
    with pytest.raises(InputError, match=line):
        train(other, finished[0])


def test_each_process_may_read_initial_weights_of_its_own(finished, town, monkeypatch):
    """As when the run began; config.json holds those of process 0."""
    config = tiny_config(town)
    elsewhere = replace(config, model=replace(config.model, init="/local/resnet50.pth"))
    with pytest.raises(InputError, match=r"\(model.init: None there, '/local/resnet50.pth' here\)"):
        check_workdir(elsewhere, finished[0])
    monkeypatch.setattr("mixvpr_jax.training.start.is_main_process", lambda: False)
    check_workdir(elsewhere, finished[0])


def test_the_folder_of_a_run_from_before_interpolation(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    values = json.loads((workdir / "config.json").read_text())
    del values["model"]["interpolation"]
    (workdir / "config.json").write_text(json.dumps(values))
    config = tiny_config(town)
    assert train(config, workdir).step == finished[1].step
    bicubic = replace(config, model=replace(config.model, interpolation="bicubic"))
    with pytest.raises(InputError, match=r"model.interpolation: 'bilinear' there, 'bicubic' here"):
        train(bicubic, workdir)


def test_a_checkpoint_of_another_model(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    config = replace(
        tiny_config(town), model=replace(tiny_config(town).model, aggregator=MixVPRConfig(4, 1))
    )
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"12: a checkpoint of another model .*aggregator"):
        train(config, workdir)


@pytest.mark.parametrize("config_too", [True, False])
def test_a_model_without_checkpoints_is_not_replaced(finished, town, tmp_path, config_too):
    """Of a run whose checkpoints were deleted or not copied, or whatever --model.init reads."""
    shutil.copytree(finished[0] / "model", tmp_path / "run" / "model")
    if config_too:
        shutil.copy(finished[0] / "config.json", tmp_path / "run")
        (tmp_path / "run" / "checkpoints").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"run: expected a new folder, or the checkpoints of a ru"):
        train(tiny_config(town), tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_checkpoints_without_a_log_have_no_best(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"expected metrics.jsonl next to checkpoints, by which"):
        train(tiny_config(town), workdir)
    (workdir / "metrics.jsonl").touch()
    assert train(tiny_config(town), workdir).step == finished[1].step


def test_other_images_than_before(finished, town, tmp_path):
    data = shutil.copytree(town / "train", tmp_path / "train")
    table = data / "Dataframes" / "Avalon.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    config = tiny_config(town)
    config = replace(config, data=replace(config.data, root=data))
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"expected the images of the run so far, found others"):
        train(config, workdir)
    table.write_text("\n".join(table.read_text().splitlines()[:9]) + "\n")  # fewer steps, too
    with pytest.raises(InputError, match=r"epochs: expected .* found 3, or images that are not"):
        train(config, workdir)


def test_rows_that_are_left_out_are_no_other_images(finished, town, tmp_path):
    """Not even where their names are longer than those of all images."""
    data = shutil.copytree(town / "train", tmp_path / "train")
    table = data / "Dataframes" / "Avalon.csv"
    header, *_, last = table.read_text().splitlines()
    cells = dict(zip(header.split(","), last.split(","), strict=True))
    one = sorted((data / "Images" / "Avalon").glob(f"*{cells['panoid']}.jpg"))[0]
    before = f"_{int(cells['place_id']):07d}_"
    assert before in one.name
    longer = one.stem.replace(before, "_0099999_") + "long" * 10 + ".jpg"
    shutil.copyfile(one, one.with_name(longer))
    cells |= {"place_id": "99999", "panoid": cells["panoid"] + "long" * 10}
    table.write_text(table.read_text() + ",".join(cells.values()) + "\n")
    config = tiny_config(town)
    former, now = (
        replace(config, data=replace(config.data, root=root)) for root in (town / "train", data)
    )
    setups = [Setup(some, tmp_path / "none") for some in (former, now)]
    (first, _, padded), (again, _, wider) = (setup.positions(12) for setup in setups)
    assert first == again and padded != wider
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / "config.json").write_text(json.dumps(now.to_dict()))
    assert train(now, workdir).step == 12


def test_a_learning_rate_that_explodes(town, tmp_path):
    config = tiny_config(town)
    config = replace(
        config,
        epochs=20,
        optimizer=replace(config.optimizer, name="sgd", learning_rate=1e12),
        validation=ValidationConfig(),
    )
    with pytest.raises(
        InputError, match=r"step \d+.* not finite, at learning rate 1e\+12"
    ) as error:
        train(config, tmp_path / "run")
    broken = int(str(error.value).split()[1].rstrip(",:"))
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert all(step < broken for step in saved)


@pytest.mark.parametrize("name", ["run [2]", "milestones=[5,10]/run", "out\\run"])
def test_a_folder_from_which_no_checkpoint_is_restored(town, tmp_path, name, monkeypatch):
    with pytest.raises(InputError, match=r"expected a path without \[, \] and backslashes.* found"):
        train(tiny_config(town), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(InputError, match="choose another --workdir"):
        train(tiny_config(town), "run")


def test_folders_that_cannot_be_written(town, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder for the run, found a file"):
        train(tiny_config(town), tmp_path / "file")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="found a link to nowhere, which is not there"):
        train(tiny_config(town), tmp_path / "link")
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(tiny_config(town).to_dict()))
    (workdir / "checkpoints").write_text("")
    with pytest.raises(InputError) as error:
        train(tiny_config(town), workdir)
    assert str(error.value) == (
        f"{workdir}/checkpoints: expected a folder for checkpoints, found a file; choose another"
    )
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "config.json"]


def test_checkpoints_that_may_not_be_written(tmp_path):
    """Known at once, in a process: before data are read, and before steps that would be lost."""
    less = []
    if os.geteuid() == 0:  # who may write anywhere, unless the right to is taken away
        if shutil.which("setpriv") is None:
            pytest.skip("root may write anywhere, and there is no setpriv to be less than root")
        rights = "-dac_override,-dac_read_search"
        less = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    (tmp_path / "config.json").write_text(json.dumps(demo.config.to_dict()))
    (tmp_path / "checkpoints").mkdir(mode=0o555)
    run = start([*less, sys.executable, "train.py", "demo", "--workdir", tmp_path])
    assert finish(run, timeout=60) == (
        2,
        "",
        f"error: {tmp_path}/checkpoints: expected a folder that can be written to, found: "
        "Permission denied; fix that or choose another folder\n",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json"]


def test_a_disk_that_is_full_during_a_save(town):
    """Orbax's threads fail in the background: one line all the same, and a process that ends."""
    options = ("--checkpoint-every-steps", 1, "--validation.no-before-training")
    with small_disk("64k") as disk:
        run = start(command(town, disk / "run", *options))
        status, _, errors = finish(run, timeout=120)
        assert (status, errors) == (
            2,
            f"error: {disk}/run/checkpoints: expected to write a checkpoint, found: No space left "
            "on device; fix that and run the same command to resume\n",
        )
        assert list((disk / "run" / "checkpoints").iterdir()) == []


def test_a_full_disk_is_named(tmp_path):
    """Where the operating system does not say which file it was."""
    line = f"{tmp_path}: expected room on the disk, found: No space left on device; make room"
    with pytest.raises(InputError, match=line), named_when_full(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="Permission denied"), named_when_full(tmp_path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_validation_sets(town, tmp_path):
    bare = tmp_path / "bare"
    for kind in ("database", "queries"):
        (bare / kind).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(bare / kind / "a.jpg")
    config = replace(tiny_config(town), validation=ValidationConfig(sets=(bare,)))
    with pytest.raises(InputError, match=r"database: expected @utm_east@utm_north@ names"):
        train(config, tmp_path / "run")
    wrong = ValidationConfig(sets=(town / "test",), select_by="test/recall@2")
    with pytest.raises(InputError, match=r"unknown metric 'test/recall@2'; closest: test/recall@"):
        train(replace(config, validation=wrong), tmp_path / "run")
    with pytest.raises(InputError, match=r"sets: expected distinct last parts"):
        ValidationConfig(sets=(bare, town / "bare"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(places_per_batch=1), "places_per_batch: expected 2 or more, found 1"),
        (lambda: DataConfig(images_per_place=1), "images_per_place: expected 2 or more, found 1"),
        (lambda: DataConfig(min_images_per_place=2), r"expected images_per_place \(4\) or more"),
        (lambda: DataConfig(order="city"), "order: unknown name 'city'; closest: by-city"),
        (
            lambda: TrainConfig(data=DataConfig(order="shuffled", shuffle_cities=True)),
            "shuffle_cities: expected False with data.order shuffled, .* give --data.no-shuffle-ci",
        ),
        (lambda: DataConfig(images="newest"), "images: unknown name 'newest'; "),
        (lambda: DataConfig(num_workers=-1), "num_workers: expected 0 or more, found -1"),
        (lambda: DataConfig(max_unreadable=-1), "max_unreadable: expected 0 or more, found -1"),
        (lambda: DataConfig(places_per_batch=2.5), "places_per_batch: expected int, found 2.5"),
        (lambda: DataConfig(cities="Rome"), "cities: expected names in a tuple, found 'Rome'"),
        (lambda: DataConfig(cities={"Rome"}), "cities: expected names in a tuple, found {'Rome'}"),
        (lambda: DataConfig(skip_missing="False"), "skip_missing: expected bool, found 'False'"),
        (lambda: DataConfig(augmentation=None), "expected AugmentationConfig, found None"),
        (lambda: AugmentationConfig(canvas=(300,)), r"canvas: expected \(height, width\), found"),
        (lambda: AugmentationConfig(magnitude=9.5), "magnitude: expected int, found 9.5"),
        (lambda: DataConfig(prefetch=0), "prefetch: expected a number above 0, found 0"),
        (lambda: OptimizerConfig(weight_decay=-1), "weight_decay: expected 0 or more, found -1"),
        (lambda: OptimizerConfig(weight_decay=math.nan), "weight_decay: expected 0 or more, found"),
        (lambda: OptimizerConfig(momentum=-0.1), "momentum: expected 0 or more, found -0.1"),
        (lambda: OptimizerConfig(momentum=7), "momentum: expected less than 1, found 7"),
        (lambda: OptimizerConfig(warmup_steps=-5), "warmup_steps: expected 0 or more, found -5"),
        (lambda: OptimizerConfig(milestones=(5, -1)), "milestones: expected epochs from 0 on"),
        (lambda: OptimizerConfig(milestones=5), "milestones: expected epochs from 0 on, found 5"),
        (lambda: OptimizerConfig(milestones=(2.5,)), "milestones: expected epochs from 0 on"),
        (lambda: OptimizerConfig(learning_rate="0.1"), "learning_rate: expected float, found '0.1"),
        (lambda: OptimizerConfig(layers_to_freeze=2.0), r"freeze: expected int . None, found 2.0"),
        (
            lambda: TrainConfig(optimizer=OptimizerConfig(linear_decay_factor=0.1)),
            "0.2 with optimizer.linear_decay_steps 0, .* 0.1; give --optimizer.linear-decay-s",
        ),
        (
            lambda: TrainConfig(optimizer=OptimizerConfig("adamw", momentum=0.8)),
            "momentum: expected 0.9 with optimizer.name adamw, where it has no effect, found 0.8",
        ),
        (lambda: ValidationConfig(sets="town"), "sets: expected several paths or names, found 'to"),
        (lambda: ValidationConfig(sets=Path("a/b")), "sets: expected several paths or names, fou"),
        (lambda: ValidationConfig(sets=None), "sets: expected several paths or names, found 'No"),
        (lambda: ValidationConfig(sets=(3,)), "sets: expected a path, found 3"),
        (lambda: ValidationConfig(sets=("a",), data_dir=3), "data_dir: expected a path, found 3"),
        (lambda: ValidationConfig(batch_size=8.0), "batch_size: expected int, found 8.0"),
        (lambda: ValidationConfig(before_training=True), "training: expected validation.sets with"),
        (lambda: ValidationConfig(data_dir="B"), "data_dir: expected validation.sets with it, fou"),
        (lambda: ValidationConfig(ground_truth="B"), "ground_truth: expected validation.sets with"),
        (lambda: StartConfig(init=3), "init: expected a path, an address or a name, found 3"),
        (lambda: TrainConfig(freeze_batch_stats="no"), "stats: expected bool, found 'no'"),
        (lambda: TrainConfig(remat_blocks=None), "remat_blocks: expected bool, found None"),
        (lambda: TrainConfig(model=ModelConfig()), "model: expected StartConfig, found ModelConf"),
        (lambda: TrainConfig(data=None), "data: expected DataConfig, found None"),
        (lambda: TrainConfig(epochs=1e0), "epochs: expected int, found 1.0"),
        (
            lambda: TrainConfig(freeze_batch_stats=True, batch_stats_per_device=True),
            "batch_stats_per_device: expected False with freeze_batch_stats True, .* --no-batch-",
        ),
        (lambda: TrainConfig(loss="MultiSimilarity"), "closest: MultiSimilarityLoss"),
        (lambda: TrainConfig(miner="PairMiner"), "miner: unknown name 'PairMiner'"),
        (lambda: TrainConfig(loss="CentroidTripletLoss"), "miner: expected None with Centroid"),
        (lambda: TrainConfig(epochs=0), "epochs: expected a number above 0"),
        (lambda: TrainConfig(seed=-1), "seed: expected 0 or more"),
    ],
)
def test_settings_that_make_no_sense(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_values_as_python_has_them():
    """Lists, paths and NumPy's numbers, in recipes of one's own."""
    assert ValidationConfig(sets=["a", Path("b")]) == ValidationConfig(sets=(Path("a"), Path("b")))
    assert StartConfig(init=Path("r/50.pth")) == StartConfig(init="r/50.pth")
    assert OptimizerConfig(milestones=[5, 8]) == OptimizerConfig(milestones=(5, 8))
    found = OptimizerConfig(layers_to_freeze=np.int64(1), learning_rate=np.float32(0.5))
    assert found == OptimizerConfig(layers_to_freeze=1, learning_rate=0.5)
    json.dumps(TrainConfig(optimizer=found, epochs=np.int32(3)).to_dict())


def test_a_run_with_options_that_had_no_effect_is_resumed(tmp_path):
    """Earlier versions accepted them."""
    optimizer = OptimizerConfig("adamw")
    config = TrainConfig(
        freeze_batch_stats=True, data=DataConfig(order="shuffled"), optimizer=optimizer
    )
    values = config.to_dict()
    values["batch_stats_per_device"] = values["data"]["shuffle_cities"] = True
    values["optimizer"] |= {"linear_decay_factor": 0.5, "momentum": 0.5}
    (tmp_path / "config.json").write_text(json.dumps(values))
    require_same_run(config, tmp_path / "config.json")
    moving = TrainConfig()
    with pytest.raises(InputError, match="batch_stats"):
        require_same_run(moving, tmp_path / "config.json")


def test_where_the_data_lie_and_how_many_decode_may_change(finished, town, tmp_path):
    """A run that began on a folder resumes on its prepared copy, with the same result."""
    prepare_gsv_cities(town / "train", tmp_path / "prepared")
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12")
    moved = {"root": tmp_path / "prepared", "num_workers": 0, "prefetch": 5, "max_unreadable": 1}
    data = replace(tiny_config(town).data, **moved)
    train(replace(tiny_config(town), data=data), workdir)
    assert told(workdir) == told(finished[0])
    weights = "model/model.safetensors"
    assert (workdir / weights).read_bytes() == (finished[0] / weights).read_bytes()
    data = replace(data, images="recent")
    with pytest.raises(InputError, match="data.images: 'random' there, 'recent' here"):
        train(replace(tiny_config(town), data=data), finished[0])


def test_where_the_data_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("MIXVPR_DATA", raising=False)
    with pytest.raises(InputError, match=r"data.root: expected the folder of GSV-Cities"):
        train(TrainConfig(), tmp_path / "run")
    (tmp_path / "GSV-Cities").mkdir()
    with pytest.raises(InputError, match=f"expected GSV-Cities .*closest: {tmp_path}/GSV-Cities"):
        train(TrainConfig(data=DataConfig(tmp_path / "gsvcities")), tmp_path / "run")
    monkeypatch.setenv("MIXVPR_DATA", str(tmp_path))
    assert DataConfig().folder == f"{tmp_path}/gsv_cities"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIXVPR_DATA", "~/data")
    assert DataConfig().folder == f"{tmp_path}/data/gsv_cities"
    assert DataConfig("~/mine").folder == f"{tmp_path}/mine"
    monkeypatch.setenv("MIXVPR_DATA", "")
    with pytest.raises(InputError, match=r"data.root: expected the folder of GSV-Cities"):
        DataConfig().folder  # noqa: B018


def test_differences_are_named():
    there = {"a": 1, "b": {"c": 2, "d": 3}, "old": 0}
    here = {"a": 1, "b": {"c": 2, "d": 4}, "new": None}
    assert differences(there, here) == ["b.d: 3 there, 4 here", "old: 0 there, None here"]
