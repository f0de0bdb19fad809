"""Runs whose folder is in an object store: what they do on a disk, they do there."""

import logging
import re
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from fsspec.registry import _registry
from one_program import describe
from runs import RESNET, command, finish, start, tiny_config, told, uninterrupted
from stores import BUCKET, put, serve

from mixvpr_jax import InputError, commands, create_model, from_pretrained, save_pretrained
from mixvpr_jax.conversion import convert_checkpoint, get_weights, weights_hash, write_checkpoint
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.data.sources import open_source
from mixvpr_jax.datasets import read_benchmark
from mixvpr_jax.evaluation.config import EvaluationConfig
from mixvpr_jax.evaluation.evaluate import evaluate
from mixvpr_jax.models.config import GeMConfig, ModelConfig
from mixvpr_jax.push import stage
from mixvpr_jax.storage import as_path
from mixvpr_jax.training.log import Mirror
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.start import initial_model


def names_in(folder):
    """Every object below a folder."""
    return {str(root / name) for root, _, names in folder.walk() for name in names}


def wait_for(process, reached):
    deadline = time.monotonic() + 100
    while not reached():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def written(store, prefix):
    """The objects whose names begin so; asking the server for them would keep it from others."""
    return [name for name in list(store.storage.objects.get(BUCKET, ())) if name.startswith(prefix)]


def test_a_run_is_killed_stopped_and_ends_as_on_a_disk(town, bucket, store, tmp_path_factory):
    """Images come from the store as well; its trace goes there, too."""
    on_disk, _ = uninterrupted(1, town, tmp_path_factory)
    data, workdir = put(town / "train", bucket / "train"), bucket / "run"
    arguments = [*command(town, workdir), "--data.root", data, "--profile-steps", "2:3"]
    killed = start(arguments)
    wait_for(killed, lambda: written(store, "run/checkpoints/6/commit_success.txt"))
    killed.kill()
    finish(killed)

    stopped = start(arguments)
    wait_for(stopped, lambda: len(written(store, "run/events")) > 1)  # each has its own
    stopped.send_signal(signal.SIGTERM)
    status, output, errors = finish(stopped)
    assert status == 0, errors
    assert re.search(r"stopped at step \d+ of 12|model: gs://bucket/run/model", output)

    status, output, errors = finish(start(arguments))
    assert status == 0, errors
    assert output.endswith("model: gs://bucket/run/model\n")
    assert told(workdir) == told(on_disk)  # to the last bit
    models = [folder / "model" for folder in (workdir, on_disk)]
    weights = [(model / "model.safetensors").read_bytes() for model in models]
    assert weights[0] == weights[1]
    cards = [(model / "README.md").read_text().splitlines() for model in models]
    [one, other] = ([line for line in card if '"command": ' not in line] for card in cards)
    assert one == other
    names = names_in(workdir)
    for pattern in ("curves.png", "config.json", "events.out.tfevents.*", "plugins/.*[.]xplane.pb"):
        assert [name for name in names if re.fullmatch(f"bucket/run/{pattern}", name)], pattern
    kept = {name.split("/")[3] for name in names if "/checkpoints/" in name}
    assert kept == {path.name for path in (on_disk / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def objects_of_run(town, store):
    """The objects of a run in the store, with checkpoints 4 and 8."""
    train(tiny_config(town, epochs=2), f"gs://{BUCKET}/run")
    names = list(store.storage.objects[BUCKET])
    objects = [
        (name, store.storage.get_file(BUCKET, name), store.storage.get_file_obj(BUCKET, name))
        for name in names
    ]
    store.storage.wipe(keep_buckets=True)
    return objects


@pytest.fixture
def trained(objects_of_run, bucket, store):
    """A run in the store, see `objects_of_run`."""
    for name, data, kept in objects_of_run:
        store.storage.create_file(BUCKET, name, data, dict(kept))
    return bucket / "run"


def test_a_damaged_checkpoint(town, trained, caplog):
    reference = told(trained)
    (part,) = (trained / "checkpoints" / "8" / "checksums").glob("metadata")
    part.write_bytes(part.read_bytes().replace(b"a", b"b", 1))
    with caplog.at_level(logging.WARNING):
        outcome = train(tiny_config(town, epochs=2), trained)
    assert outcome.step == 8
    assert "checkpoints/8: damaged" in caplog.text
    assert "restoring the one before" in caplog.text
    (moved,) = (trained / "damaged_checkpoints").iterdir()
    assert moved.name.startswith("8_")
    assert (moved / "commit_success.txt").exists()
    assert told(trained) == reference


def test_a_store_that_is_not_reached_is_no_damage(town, trained, store):
    before = names_in(trained / "checkpoints")
    store.forbidden = ("GET", "run/checkpoints/8/state/")
    with pytest.raises(InputError, match=r"checkpoints/8: expected to reach the object store, fou"):
        train(tiny_config(town, epochs=2), trained)
    store.forbidden = ("", "")
    assert names_in(trained / "checkpoints") == before
    assert not (trained / "damaged_checkpoints").exists()


def test_a_store_that_goes_away(town, monkeypatch):
    """The clients ask again for half a minute, once; what is still to be saved is given up."""
    with serve() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        run = start(command(town, "gs://bucket/run", "--epochs", 1000))
        wait_for(run, lambda: written(server, "run/checkpoints/4/commit_success.txt"))
    status, _, errors = finish(run, timeout=120)
    assert status == 2
    (line,) = [line for line in errors.splitlines() if not re.match(r"[IWE]\d{4} ", line)]
    assert re.match(r"error: gs://bucket/run/.*: expected to reach the object store, found: ", line)


@pytest.mark.parametrize("part", ["checkpoints/3/state/", "metrics.jsonl", "checkpoints/3/commit"])
def test_what_may_not_be_written(part, town, bucket, store):
    """A save that fails during a run ends it in one line; the same command resumes it."""
    store.forbidden = ("POST", f"run/{part}")
    arguments = command(town, bucket / "run", "--epochs", 1)
    status, _, errors = finish(start(arguments))
    assert status == 2
    (line,) = [line for line in errors.splitlines() if not re.match(r"[IWE]\d{4} ", line)]
    assert re.match(r"error: gs://bucket/run/.*: expected to .*, found: .*; fix that and run", line)
    store.forbidden = ("", "")
    status, _, errors = finish(start(arguments))
    assert status == 0, errors


def test_nothing_is_written_where_nothing_may_be(town, bucket, store):
    store.forbidden = ("POST", "run/")
    with pytest.raises(InputError, match="gs://bucket/run: expected to reach the object store, fo"):
        train(tiny_config(town), bucket / "run")
    with pytest.raises(InputError, match="gs://another/run: expected to reach the object store"):
        train(tiny_config(town), "gs://another/run")
    assert names_in(bucket) == set()


def test_the_folder_of_another_configuration(town, trained):
    with pytest.raises(InputError, match=r"gs://bucket/run: a run of another configuration \(seed"):
        train(tiny_config(town, seed=3), trained)


def test_without_the_library(monkeypatch):
    monkeypatch.delitem(_registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"gs://bucket/run: .*; pip install 'mixvpr-jax\[gcs\]'"):
        as_path("gs://bucket/run")
    with pytest.raises(InputError, match=r"gs://bucket/run: .*; pip install 'mixvpr-jax\[gcs\]'"):
        open_source(DataConfig("gs://bucket/run"))


def test_errors_name_the_object_of_a_checkpoint(bucket):
    (bucket / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(
        InputError, match=r"^gs://bucket/broken.ckpt: expected a PyTorch checkpoint"
    ):
        convert_checkpoint("gs://bucket/broken.ckpt")


def test_models(town, trained, bucket):
    """From a run's folder in the store, and back into it."""
    model, preprocess = from_pretrained(str(trained / "model"))
    save_pretrained(model, bucket / "copy")
    again, _ = from_pretrained("gs://bucket/copy")
    images = preprocess(np.zeros((50, 60, 3), np.uint8))
    np.testing.assert_array_equal(describe(model, images), describe(again, images))
    (bucket / "copy" / "config.json").unlink()
    with pytest.raises(InputError, match=r"gs://bucket/copy/config.json: expected a model's file,"):
        from_pretrained("gs://bucket/copy")


def test_conversion_from_the_store_and_into_it(bucket, tmp_path):
    config = replace(tiny_config(tmp_path).model, **RESNET).architecture
    size = config.image_size
    save_pretrained(create_model(config, seed=1), bucket / "model")
    commands.to_torch("gs://bucket/model", "gs://bucket/model.ckpt")
    for _ in range(2):  # a model is replaced
        commands.to_flax("gs://bucket/model.ckpt", "gs://bucket/again", image_size=size)
    one, other = (from_pretrained(f"gs://bucket/{name}")[0] for name in ("model", "again"))
    assert one.config == other.config
    assert weights_hash(get_weights(one)) == weights_hash(get_weights(other))
    assert "Converted from model.ckpt" in (bucket / "again" / "README.md").read_text()
    (bucket / "notes" / "README.md").write_text("theirs")
    with pytest.raises(InputError, match=r"gs://bucket/notes: .* others' files \(README.md\)"):
        commands.to_flax("gs://bucket/model.ckpt", "gs://bucket/notes", image_size=size)


@pytest.mark.parametrize("name", ["model", "model.ckpt"])
def test_what_is_pushed_comes_from_the_store(bucket, tmp_path, name):
    model = create_model(ModelConfig(**RESNET, aggregator=GeMConfig()), seed=1)
    save_pretrained(model, bucket / "model")
    write_checkpoint(model, bucket / "model.ckpt")
    stage(f"gs://bucket/{name}", tmp_path)
    assert weights_hash(get_weights(from_pretrained(tmp_path)[0])) == weights_hash(
        get_weights(model)
    )


def test_what_a_run_starts_from(trained, bucket, tmp_path):
    """Another run's model, its last checkpoint where it has none yet, or a file."""
    start_config = replace(tiny_config(tmp_path).model, init=str(trained))
    of_run = get_weights(initial_model(start_config, seed=0))
    of_model = get_weights(from_pretrained(str(trained / "model"))[0])
    assert all(np.array_equal(of_run[name], of_model[name]) for name in of_model)
    (trained / "model").rmtree()
    of_checkpoint = get_weights(initial_model(start_config, seed=0))
    assert of_checkpoint.keys() == of_model.keys()

    resnet = replace(start_config, **RESNET)
    write_checkpoint(create_model(resnet.architecture, seed=3), tmp_path / "model.ckpt")
    (bucket / "model.ckpt").write_bytes((tmp_path / "model.ckpt").read_bytes())
    file = replace(resnet, init="gs://bucket/model.ckpt")
    of_file = get_weights(initial_model(file, seed=0))
    expected = get_weights(create_model(resnet.architecture, seed=3))
    assert all(np.array_equal(of_file[name], expected[name]) for name in expected)


def test_a_mirror_copies_what_is_new(bucket, monkeypatch, tmp_path):
    mirror = Mirror(bucket / "run")
    (mirror.folder / "below").mkdir()
    for name in ("log", "below/trace"):
        (mirror.folder / name).write_text("one")
    mirror.copy_if_due()  # not yet
    assert not (bucket / "run").exists()
    monkeypatch.setattr("mixvpr_jax.training.log.SECONDS", 0.0)
    mirror.copy_if_due()
    assert (bucket / "run" / "below" / "trace").read_text() == "one"
    (bucket / "run" / "below" / "trace").unlink()
    with (mirror.folder / "log").open("a") as file:
        file.write(" two")
    mirror.close()
    assert (bucket / "run" / "log").read_text() == "one two"
    assert not (bucket / "run" / "below" / "trace").exists()  # nothing new to copy
    assert not mirror.folder.exists()
    assert Mirror(tmp_path).folder == tmp_path


def test_an_evaluation_in_a_store_is_that_on_a_disk(town, trained, bucket, tmp_path):
    """Model, images, ground truth in their names, results and the run to compare with."""
    images = put(town / "test", bucket / "test")
    arguments = [sys.executable, "eval.py", "--latency-queries", 2, "--recall-values", 1, 5]
    here = [*arguments, "--database", town / "test" / "database"]
    here += ["--queries", town / "test" / "queries", "--output", tmp_path / "out"]
    (tmp_path / "model").mkdir()
    for file in (trained / "model").iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    assert finish(start([*here, "--weights", tmp_path / "model"]))[0] == 0

    there = [*arguments, "--weights", trained / "model", "--output", bucket / "out"]
    there += ["--database", f"{images}/database", "--queries", f"{images}/queries"]
    status, output, errors = finish(start(there))
    assert status == 0, errors
    assert output.endswith("report: gs://bucket/out/report.html\n")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in (bucket / "out").iterdir()} == names
    for name in ("database_descriptors.npy", "query_descriptors.npy"):
        assert (bucket / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    predictions = (bucket / "out" / "predictions.csv").read_text()
    assert predictions.replace("gs://bucket/test", f"{town}/test") == (
        (tmp_path / "out" / "predictions.csv").read_text()
    )

    status, _, errors = finish(start(there))
    assert (status, "gs://bucket/out: expected no earlier output" in errors) == (2, True)
    status, output, errors = finish(start([*there, "--overwrite", "--compare", bucket / "out"]))
    assert status == 0, errors


def test_results_that_may_not_be_written(town, bucket, store, tmp_path):
    """Told before hours of work: the model is not even looked for."""
    store.forbidden = ("POST", "out/")
    folders = (town / "test" / part for part in ("database", "queries"))
    config = EvaluationConfig("nowhere", bucket / "out", None, None, None, False, *folders)
    with pytest.raises(InputError, match="gs://bucket/out: expected to reach the object store"):
        evaluate(config)


def test_a_benchmark_and_validation_in_a_store(town, trained, bucket):
    """A benchmark's folder is found below the one that is given, and its counts are held."""
    put(town / "test" / "database", bucket / "data" / "Tokyo247" / "images" / "test" / "database")
    put(town / "test" / "queries", bucket / "data" / "Tokyo247" / "images" / "test" / "queries")
    with pytest.raises(InputError, match="gs://bucket/data: tokyo247: expected 75,984 database"):
        read_benchmark("tokyo247", bucket / "data")
    found = read_benchmark("tokyo247", bucket / "data", allow_subset=True)
    assert found.is_subset
    assert str(found.queries[0]).startswith("gs://bucket/data/Tokyo247/images/test/queries/@")

    put(town / "test", bucket / "test")
    config = tiny_config(town, epochs=2)
    validation = replace(config.validation, sets=("gs://bucket/test",))
    train(replace(config, validation=validation), bucket / "other")
    assert told(bucket / "other") == told(trained)
