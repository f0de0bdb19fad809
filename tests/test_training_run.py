"""A whole run in this process: what it leaves behind, what it starts from, what it refuses."""

import json
import math
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from runs import entries, tiny_config

from mixvpr_jax import create_model, from_pretrained, save_pretrained
from mixvpr_jax.config import DataConfig, MixVPRConfig, TrainConfig, ValidationConfig
from mixvpr_jax.config.training import differences
from mixvpr_jax.conversion import to_state_dict, write_checkpoint
from mixvpr_jax.errors import InputError
from mixvpr_jax.preprocess import normalize
from mixvpr_jax.training.initial import initial_model
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.step import _normalized
from mixvpr_jax.weights import get_weights


@pytest.fixture(scope="session")
def finished(town, tmp_path_factory):
    """A run to its end, on eight devices: its folder and its outcome."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with jax.numpy_dtype_promotion("standard"):  # libraries between here and there mix types
        return workdir, train(tiny_config(town), workdir)


@pytest.fixture(autouse=True)
def ordinary_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_what_a_run_leaves_behind(finished, town):
    workdir, outcome = finished
    names = {path.name for path in workdir.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {"checkpoints", "config.json", "curves.png", "metrics.jsonl", "model"}
    assert (outcome.step, outcome.total_steps) == (12, 12)
    config = json.loads((workdir / "config.json").read_text())
    assert config == tiny_config(town).to_dict()
    with Image.open(workdir / "curves.png") as picture:
        assert min(picture.size) > 300


def test_what_is_logged(finished):
    steps = [entry for entry in entries(finished[0]) if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    for entry in steps:
        assert math.isfinite(entry["loss"])
        assert 0 <= entry["batch_accuracy"] <= 1
        assert entry["images_per_second"] > 0
    assert [entry["learning_rate"] for entry in steps[:3]] == pytest.approx([5e-4, 1e-3, 1e-3])
    validations = [entry for entry in entries(finished[0]) if "test/recall@1" in entry]
    assert [entry["step"] for entry in validations] == [4, 8, 12]
    for entry in validations:
        assert 0 <= entry["test/recall@1"] <= entry["test/recall@10"] <= 100


def test_tensorboard_reads_what_was_logged(finished):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    assert masked_crc32c  # the records' checksums are the library's business
    (path,) = finished[0].glob("events.out.tfevents*")
    data, at, losses = path.read_bytes(), 0, {}
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            if value.tag == "train/loss":
                losses[event.step] = value.simple_value
    expected = {e["step"]: e["loss"] for e in entries(finished[0]) if "loss" in e}
    assert losses == pytest.approx(expected)


def test_the_model_is_the_best_one(finished, town):
    workdir, outcome = finished
    recalls = {e["step"]: e["test/recall@1"] for e in entries(workdir) if "test/recall@1" in e}
    assert outcome.metrics["test/recall@1"] == max(recalls.values())
    model, _ = from_pretrained(outcome.model)
    assert model.config == tiny_config(town).model.architecture


def test_the_last_and_the_best_three_are_kept(town, tmp_path):
    config = replace(tiny_config(town), epochs=6, checkpoint_every_steps=1)
    train(config, tmp_path / "run")
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    values = {e["step"]: e["test/recall@1"] for e in entries(tmp_path / "run") if len(e) == 4}
    assert len(values) == 6
    best = sorted(values, key=lambda step: (values[step], step))[-3:]
    assert set(kept) >= {24, *best}
    assert len(kept) <= 4


def test_a_finished_run_is_finished(finished, town):
    workdir, outcome = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    weights = (workdir / "model" / "model.safetensors").read_bytes()
    assert train(tiny_config(town), workdir) == outcome
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert (workdir / "model" / "model.safetensors").read_bytes() == weights


def test_without_validation_the_last_model_is_taken(town, tmp_path):
    config = replace(tiny_config(town), validation=ValidationConfig(), epochs=1, chunks=2)
    outcome = train(config, tmp_path / "run")
    assert outcome.metrics == {}
    assert (outcome.model / "model.safetensors").is_file()


def test_a_set_smaller_than_a_batch(finished, town, tmp_path):
    config = tiny_config(town)
    config = replace(config, validation=replace(config.validation, batch_size=60), epochs=1)
    train(config, tmp_path / "run")
    (found,) = (entry for entry in entries(tmp_path / "run") if len(entry) == 4)
    (expected, *_) = (entry for entry in entries(finished[0]) if len(entry) == 4)
    assert found == expected


def test_bytes_are_normalised_on_the_device_as_on_the_host():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    with jax.numpy_dtype_promotion("strict"):
        on_device = np.asarray(jax.jit(_normalized)(images))
    assert np.abs(on_device - normalize(images)).max() <= 5e-7


# What a run starts from.


def of_run(town, init):
    return replace(tiny_config(town).model, init=str(init))


def same_weights(model, other):
    one, two = get_weights(model), get_weights(other)
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)


def test_fresh_weights_follow_the_seed(town):
    config = tiny_config(town).model
    assert same_weights(initial_model(config, seed=3), initial_model(config, seed=3))
    assert not same_weights(initial_model(config, seed=3), initial_model(config, seed=4))


def test_from_a_models_folder_and_from_a_checkpoint(town, tmp_path):
    model = create_model(tiny_config(town).model.architecture, seed=9)
    save_pretrained(model, tmp_path / "model")
    write_checkpoint(model, tmp_path / "model.ckpt")
    for init in (tmp_path / "model", tmp_path / "model.ckpt"):
        assert same_weights(initial_model(of_run(town, init), seed=0), model)
    larger = replace(of_run(town, tmp_path / "model"), image_size=(32, 48))
    with pytest.raises(InputError, match=r"wrong shapes.*expected \[24, 24\], found \[20, 20\]"):
        initial_model(larger, seed=0)


def test_from_another_run(finished, town, tmp_path):
    workdir, outcome = finished
    model, _ = from_pretrained(outcome.model)
    assert same_weights(initial_model(of_run(town, workdir), seed=0), model)
    unfinished = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(unfinished / "model")
    last = initial_model(of_run(town, unfinished), seed=0)
    shapes = {name: array.shape for name, array in get_weights(last).items()}
    assert shapes == {name: array.shape for name, array in get_weights(model).items()}
    shutil.rmtree(unfinished / "checkpoints" / "12")
    assert not same_weights(initial_model(of_run(town, unfinished), seed=0), last)
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "checkpoints").mkdir()
    with pytest.raises(InputError, match="expected a run with a checkpoint, found none"):
        initial_model(of_run(town, unfinished), seed=0)


def test_from_torchvisions_weights(town, tmp_path):
    from reference_torch import TorchvisionResNet

    torch.manual_seed(0)
    trunk = TorchvisionResNet("resnet18", full=True)
    torch.save(trunk.state_dict(), tmp_path / "resnet18.pth")
    config = of_run(town, tmp_path / "resnet18.pth")
    state = to_state_dict(initial_model(config, seed=5))
    expected = {f"backbone.model.{name}": array for name, array in trunk.state_dict().items()}
    for name, array in state.items():
        if name.startswith("backbone") and "num_batches" not in name:
            assert np.array_equal(array, expected[name].numpy()), name
    fresh = to_state_dict(create_model(config.architecture, seed=5))
    heads = [name for name in fresh if name.startswith("aggregator")]
    assert heads
    assert all(np.array_equal(state[name], fresh[name]) for name in heads)
    with pytest.raises(InputError, match=r"expected a resnet34, found a resnet18"):
        initial_model(replace(config, arch="resnet34"), seed=0)


def test_from_a_model_with_another_head(town, tmp_path):
    model = create_model(replace(tiny_config(town).model.architecture, aggregator=MixVPRConfig()))
    save_pretrained(model, tmp_path / "model")
    with pytest.raises(InputError, match=r"expected a model with MixVPRConfig\(out_channels=8.*"):
        initial_model(of_run(town, tmp_path / "model"), seed=0)


def test_from_nothing_that_exists(town, tmp_path):
    config = replace(tiny_config(town), model=of_run(town, "resnet50_409"))
    with pytest.raises(InputError, match="closest: resnet50_4096"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What a run refuses.


def test_the_folder_of_another_configuration(finished, town):
    config = tiny_config(town)
    other = replace(config, epochs=9, optimizer=replace(config.optimizer, learning_rate=0.5))
    line = r"another configuration \(epochs: 3 there, 9 here; optimizer.learning_rate: 0.001 there"
    with pytest.raises(InputError, match=line):
        train(other, finished[0])


def test_a_checkpoint_of_another_model(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    config = replace(
        tiny_config(town), model=replace(tiny_config(town).model, aggregator=MixVPRConfig(4, 1))
    )
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"12: a checkpoint of another model .*aggregator"):
        train(config, workdir)


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


def test_folders_that_cannot_be_written(town, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder for the run, found a file"):
        train(tiny_config(town), tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises((InputError, OSError), match="checkpoints"):
        train(tiny_config(town), tmp_path / "run")


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
        (lambda: DataConfig(cities=()), "cities: expected at least one"),
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


def test_where_the_data_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("MIXVPR_DATA", raising=False)
    with pytest.raises(InputError, match=r"data.root: expected the folder of GSV-Cities"):
        train(TrainConfig(), tmp_path / "run")
    monkeypatch.setenv("MIXVPR_DATA", str(tmp_path))
    assert DataConfig().folder == f"{tmp_path}/gsv_cities"


def test_differences_are_named():
    there = {"a": 1, "b": {"c": 2, "d": 3}, "old": 0}
    here = {"a": 1, "b": {"c": 2, "d": 4}, "new": None}
    assert differences(there, here) == ["b.d: 3 there, 4 here", "old: 0 there, None here"]
