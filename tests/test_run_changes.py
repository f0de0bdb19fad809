"""What may change when a run is resumed: what is measured, how often, how long; no step taken."""

import json
import shutil
from contextlib import closing
from dataclasses import fields, replace

import pytest
from runs import assert_weights, entries, measure_instead, tiny_config, told

from mixvpr_jax.errors import InputError
from mixvpr_jax.training.checkpoint import Checkpoints
from mixvpr_jax.training.config import ADDED_SINCE, MAY_CHANGE, RENAMED, ValidationConfig
from mixvpr_jax.training.loop import train

METRICS = ("test/recall@1", "test/recall@5", "test/recall@10")
# Of each step; each metric has another best one.
RECALLS = {4: (90.0, 10.0, 50.0), 8: (80.0, 30.0, 60.0), 12: (70.0, 20.0, 70.0)}


@pytest.fixture
def ended(finished, tmp_path):
    """A run that has ended, and measured RECALLS."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    lines = [entry for entry in entries(workdir) if "loss" in entry]
    lines += [{"step": step, **dict(zip(METRICS, RECALLS[step], strict=True))} for step in RECALLS]
    lines.sort(key=lambda entry: entry["step"])
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def assert_model_of(workdir, step):
    with closing(Checkpoints(workdir / "checkpoints", only_read=True)) as checkpoints:
        assert_weights(workdir / "model", checkpoints.weights(step))


def with_validation(town, **changes):
    config = tiny_config(town)
    return replace(config, validation=replace(config.validation, **changes))


def kept(workdir):
    return json.loads((workdir / "config.json").read_text())


def test_all_of_validation_may_change():
    names = {f"validation.{field.name}" for field in fields(ValidationConfig)}
    assert names | {"epochs", "log_every_steps", "checkpoint_every_steps"} <= MAY_CHANGE


def test_a_run_that_was_started_under_former_names_of_fields_is_resumed(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    former = {present: name for name, present in RENAMED.items()}
    written = {former.get(name, name): value for name, value in kept(workdir).items()}
    assert written.keys() >= set(former.values())
    for name in ADDED_SINCE:  # which earlier versions did not write
        *part, field = name.split(".")
        del (written[part[0]] if part else written)[field]
    (workdir / "config.json").write_text(json.dumps(written))
    assert train(tiny_config(town), workdir).step == 12
    assert kept(workdir) == kept(finished[0])
    config = replace(tiny_config(town), grad_cache_chunks=2)
    with pytest.raises(InputError, match=r"grad_cache_chunks: 1 there, 2 here"):
        train(config, workdir)


def test_more_epochs_are_those_of_one_long_run(finished, town, tmp_path):
    """Milestones count from the start of the run, so that its steps are the same."""
    config, workdir = tiny_config(town), tmp_path / "run"
    assert train(replace(config, epochs=2, checkpoint_every_steps=5), workdir).step == 8
    assert kept(workdir)["epochs"] == 2
    assert train(config, workdir).step == 12
    assert told(workdir) == told(finished[0])
    weights = "model/model.safetensors"
    assert (workdir / weights).read_bytes() == (finished[0] / weights).read_bytes()
    assert kept(workdir) == config.to_dict()

    line = "epochs: expected 3 or more, as this run has taken 12 steps of 4 an epoch; found 2"
    with pytest.raises(InputError, match=line):
        train(replace(config, epochs=2), workdir)
    assert kept(workdir) == config.to_dict()


def test_fewer_epochs_end_the_run(finished, town, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12")
    outcome = train(replace(tiny_config(town), epochs=2), workdir)
    assert (outcome.step, outcome.total_steps) == (8, 8)
    assert told(workdir) == [entry for entry in told(finished[0]) if entry["step"] <= 8]
    assert kept(workdir)["epochs"] == 2


def test_intervals(ended, town):
    config = replace(tiny_config(town), log_every_steps=7, checkpoint_every_steps=999)
    assert train(config, ended).step == 12
    assert kept(ended) == config.to_dict()


def test_another_metric_selects_another_model(ended, town):
    train(tiny_config(town), ended)
    assert_model_of(ended, 4)
    for index, best in ((1, 8), (2, 12), (0, 4)):
        outcome = train(with_validation(town, select_by=METRICS[index]), ended)
        assert outcome.metrics[METRICS[index]] == max(row[index] for row in RECALLS.values())
        assert_model_of(ended, best)
        assert kept(ended)["validation"]["select_by"] == METRICS[index]


def test_another_set_is_measured_from_now_on(ended, town, tmp_path, monkeypatch):
    """The new set says which is best only among what was measured on it."""
    other = shutil.copytree(town / "test", tmp_path / "other")
    measure_instead(monkeypatch, {12: 33.0})
    both = with_validation(town, sets=(town / "test", other), select_by="test/recall@5")
    assert train(both, ended).metrics["test/recall@5"] == 33
    assert [e["step"] for e in entries(ended) if "other/recall@1" in e] == [12]
    assert_model_of(ended, 12)

    turned = with_validation(town, sets=(other, town / "test"))
    assert train(turned, ended).metrics["other/recall@1"] == 33
    assert_model_of(ended, 12)
    assert len([e for e in entries(ended) if "other/recall@1" in e]) == 1  # no state twice

    assert train(tiny_config(town), ended).metrics["test/recall@1"] == 90
    assert_model_of(ended, 4)


@pytest.mark.parametrize("changed", ["names", "positives"])
def test_another_set_of_the_same_name_is_not_compared(ended, town, tmp_path, monkeypatch, changed):
    """It is decoded, measured and ranked as if its name were another."""
    other = shutil.copytree(town / "test", tmp_path / "other" / "test")
    for index, photo in enumerate(sorted((other / "queries").iterdir())):
        far = photo.name.replace("@0", "@8", 1) if changed == "positives" and index else photo.name
        photo.rename(photo.with_name(far.replace("@.jpg", f"{index}@.jpg")))
    first, second = (with_validation(town, sets=(at / "test",)) for at in (town, other.parent))
    (ended / "metrics.jsonl").write_text("")
    measure_instead(monkeypatch, {12: 90.0})
    train(first, ended)
    measure_instead(monkeypatch, {12: 33.0})
    assert train(first, ended).metrics["test/recall@1"] == 90  # no state twice
    assert train(second, ended).metrics["test/recall@1"] == 33
    assert train(first, ended).metrics["test/recall@1"] == 90
    sets = [entry["validation_sets"]["test"] for entry in entries(ended)]
    assert len(sets) == len(set(sets)) == 2
    min((other / "queries").iterdir()).write_text("no image")
    (ended / "metrics.jsonl").write_text(json.dumps({"step": 12, **entries(ended)[0]}) + "\n")
    with pytest.raises(InputError, match="test has 1 such images"):
        train(second, ended)


def test_the_best_is_not_taken_from_another_set_of_the_same_name(ended, town):
    lines = entries(ended)
    for entry in lines:
        if entry["step"] == 4 and "loss" not in entry:
            entry["validation_sets"] = {"test": "00000000"}
    (ended / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert train(tiny_config(town), ended).metrics["test/recall@1"] == 80
    assert_model_of(ended, 8)


def test_without_sets_the_last_is_taken(ended, town):
    outcome = train(with_validation(town, sets=()), ended)
    assert outcome.metrics["test/recall@1"] == 70  # as was measured of it before
    assert_model_of(ended, 12)


def test_recall_by_another_radius_is_not_compared(ended, town, monkeypatch):
    measure_instead(monkeypatch, {12: 33.0})
    outcome = train(with_validation(town, positive_radius_m=10.0), ended)
    assert outcome.metrics["test/recall@1"] == 33
    assert_model_of(ended, 12)
    assert train(tiny_config(town), ended).metrics["test/recall@1"] == 90
    assert_model_of(ended, 4)


def test_the_best_that_is_no_longer_there(ended, town, caplog):
    """As after another metric has selected what to keep: the best of those that are."""
    shutil.rmtree(ended / "checkpoints" / "4")
    assert train(tiny_config(town), ended).metrics["test/recall@1"] == 80
    assert "the checkpoint of step 4, the best by test/recall@1, is no longer there" in caplog.text
    assert_model_of(ended, 8)


def test_a_broken_image_is_told_before_the_first_step(town, tmp_path):
    """All of them, before anything is written; what was measured before is not decoded again."""
    broken = shutil.copytree(town / "test", tmp_path / "test")
    query, database = (min((broken / kind).iterdir()) for kind in ("queries", "database"))
    query.write_bytes(query.read_bytes()[:-200])
    database.write_bytes(b"")
    config = with_validation(town, sets=(broken,))
    with pytest.raises(InputError, match="test has 2 such images: fix that") as error:
        train(config, tmp_path / "run")
    assert [line.split(":")[0] for line in error.value.details] == [str(database), str(query)]
    assert not (tmp_path / "run").exists()


def test_a_broken_image_of_a_set_that_comes_later(ended, town, tmp_path):
    other = shutil.copytree(town / "test", tmp_path / "other")
    min((other / "queries").iterdir()).write_text("no image")
    before = (ended / "config.json").read_bytes()
    with pytest.raises(InputError, match="other has 1 such images"):
        train(with_validation(town, sets=(town / "test", other)), ended)
    assert (ended / "config.json").read_bytes() == before
