"""A whole run in this process: what it leaves behind, and which model comes out."""

import json
import math
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from runs import assert_weights, entries, measure_instead, tiny_config

from mixvpr_jax import from_pretrained
from mixvpr_jax.evaluation.describe import normalized_to_rounding
from mixvpr_jax.preprocess import normalize
from mixvpr_jax.training.checkpoint import Checkpoints
from mixvpr_jax.training.config import ValidationConfig
from mixvpr_jax.training.loop import train


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


def test_its_weights_are_those_of_the_best_checkpoint(town, tmp_path, monkeypatch):
    """Neither the first nor the last; of equal ones the later."""
    measure_instead(monkeypatch, {4: 90.0, 8: 90.0, 12: 10.0})
    outcome = train(tiny_config(town), tmp_path / "run")
    assert outcome.metrics["test/recall@1"] == 90
    with closing(Checkpoints(tmp_path / "run" / "checkpoints", only_read=True)) as checkpoints:
        weights = {step: checkpoints.weights(step) for step in (4, 8, 12)}
    assert_weights(outcome.model, weights[8])
    for other in (4, 12):
        assert any(not np.array_equal(weights[other][n], a) for n, a in weights[8].items())


def test_the_last_and_the_best_three_are_kept(town, tmp_path, monkeypatch):
    recalls = dict(zip(range(4, 28, 4), (50.0, 90.0, 80.0, 70.0, 60.0, 10.0), strict=True))
    measure_instead(monkeypatch, recalls)
    train(replace(tiny_config(town), epochs=6, checkpoint_every_steps=1), tmp_path / "run")
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [8, 12, 16, 24]


def test_a_finished_run_is_finished(finished, town):
    workdir, outcome = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    weights = (workdir / "model" / "model.safetensors").read_bytes()
    assert train(tiny_config(town), workdir) == outcome
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert (workdir / "model" / "model.safetensors").read_bytes() == weights


def test_without_validation_the_last_model_is_taken(town, tmp_path):
    config = replace(
        tiny_config(town), validation=ValidationConfig(), epochs=1, grad_cache_chunks=2
    )
    outcome = train(config, tmp_path / "run")
    assert outcome.metrics == {}
    assert (outcome.model / "model.safetensors").is_file()


def test_a_run_outside_the_main_thread(town, tmp_path):
    """As a notebook's or a server's: only the main one may handle signals."""
    config = tiny_config(town, validation=ValidationConfig(), epochs=1)

    def run():
        return train(config, tmp_path / "run")

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result().step == 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_sets_smaller_than_a_batch(finished, town, tmp_path):
    """One as ever, and the same with database and queries exchanged, which says what is best."""
    for kind, other in (("database", "queries"), ("queries", "database")):
        shutil.copytree(town / "test" / kind, tmp_path / "turned" / other)
    sets = ValidationConfig((town / "test", tmp_path / "turned"), "turned/recall@5", batch_size=60)
    config = replace(tiny_config(town), validation=sets, epochs=1)
    outcome = train(config, tmp_path / "run")
    (found,) = (entry for entry in entries(tmp_path / "run") if "test/recall@1" in entry)
    (expected, *_) = (e for e in entries(finished[0]) if "test/recall@1" in e)
    checksums, usual = found.pop("validation_sets"), expected.pop("validation_sets")
    assert checksums == usual | {"turned": checksums["turned"]}
    turned = {name: found.pop(name) for name in list(found) if name.startswith("turned/")}
    assert found == expected
    assert turned.keys() == {f"turned/recall@{k}" for k in (1, 5, 10)}
    assert list(turned.values()) != list(expected.values())[1:]
    assert outcome.metrics == turned | {n: found[n] for n in found if n != "step"}


@pytest.mark.usefixtures("optimized")
def test_bytes_are_normalised_on_the_device_as_on_the_host():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    on_device = np.asarray(jax.jit(normalized_to_rounding)(images))
    assert np.abs(on_device - normalize(images)).max() <= 5e-7


def test_a_run_of_an_earlier_version_goes_on(town, tmp_path):
    """Which called a folder by a benchmark's name: what it measured still says what is best."""
    shutil.copytree(town / "test", tmp_path / "nordland")
    sets = ValidationConfig(sets=(tmp_path / "nordland",), batch_size=8)
    config, workdir = tiny_config(town, validation=sets, epochs=1), tmp_path / "run"
    outcome = train(config, workdir)
    assert list(outcome.metrics) == [f"nordland-folder/recall@{k}" for k in (1, 5, 10)]
    log = workdir / "metrics.jsonl"
    log.write_text(log.read_text().replace("nordland-folder/", "nordland/"))
    again = train(config, workdir)
    assert again == outcome and len(log.read_text().splitlines()) == 5  # nothing measured again
