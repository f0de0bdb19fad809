"""One step on one device, on eight, under pmap and in two processes: the same update."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from one_program import describe
from reference import in_float64
from trajectory import (
    LOSS_AND_MINER,
    SMALL,
    batch,
    padded,
    start,
    weights_of,
)

from mixvpr_jax.distributed import AXIS, OtherFailed, data_mesh, raise_on_all_processes
from mixvpr_jax.errors import InputError
from mixvpr_jax.losses import multi_similarity
from mixvpr_jax.losses.mining import multi_similarity_miner
from mixvpr_jax.training.step import create_state, make_device_step, make_step

# Sixteen images; and a short last batch of eleven, padded to sixteen on several devices. The golden
# trajectories run sixteen with the first loss on eight devices; the losses' tests pad each loss.
PAIRS = (("multi_similarity", 11), ("triplet_margin", 16))


@cache
def on_one_device(name, count):
    with in_float64():
        images, labels = (array[:count] for array in batch(3, SMALL))
        model, optimizer = start()
        step = make_step(model, optimizer, *LOSS_AND_MINER[name], data_mesh(jax.devices()[:1]))
        state, metrics = step(create_state(model, optimizer), images, labels)
        return weights_of(state), {name: float(value) for name, value in metrics.items()}


def assert_same(name, count, weights, metrics, parity):
    expected, expected_metrics = on_one_device(name, count)
    assert expected_metrics["loss"] > 0
    assert expected_metrics["images"] == count  # without padding, of all devices
    assert metrics == pytest.approx(expected_metrics, abs=1e-10)
    assert weights.keys() == expected.keys()
    for entry, array in expected.items():
        row = "a step on eight devices, two processes, by `jax.pmap`, padded, float64"
        parity(row, np.abs(array - weights[entry]).max(), 1e-10)


@pytest.mark.parametrize(("name", "count"), PAIRS)
def test_eight_devices(name, count, parity):
    with in_float64():
        model, optimizer = start()
        step = make_step(model, optimizer, *LOSS_AND_MINER[name], data_mesh())
        state, metrics = step(create_state(model, optimizer), *padded(batch(3, SMALL), count))
        metrics = {name: float(value) for name, value in metrics.items()}
        assert_same(name, count, weights_of(state), metrics, parity)


@pytest.mark.parametrize(("name", "count"), PAIRS)
def test_pmap(name, count, parity):
    with in_float64():
        model, optimizer = start()
        step = make_device_step(model, optimizer, *LOSS_AND_MINER[name])
        program = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, 0))
        parts = [array.reshape(8, 2, *array.shape[1:]) for array in padded(batch(3, SMALL), count)]
        state, metrics = program(create_state(model, optimizer), *parts)
        for leaf in jax.tree.leaves((state, metrics)):
            values = np.asarray(leaf)
            assert (values == values[0]).all()  # on every device
        state, metrics = jax.tree.map(lambda leaf: leaf[0], (state, metrics))
        metrics = {name: float(value) for name, value in metrics.items()}
        assert_same(name, count, weights_of(state), metrics, parity)


def test_two_processes_of_four_devices(tmp_path, parity):
    script = Path(__file__).with_name("two_processes.py")
    arguments = [sys.executable, str(script), str(tmp_path / "out.npz")]
    with subprocess.Popen([*arguments, "1"]) as other:
        subprocess.run([*arguments, "0"], check=True, timeout=500)
        assert other.wait(60) == 0
    found = np.load(tmp_path / "out.npz")
    for name, count in PAIRS[:1]:
        prefix = f"{name} {count} "
        entries = {n.removeprefix(prefix): found[n] for n in found if n.startswith(prefix)}
        metrics = {n[1:]: float(entries.pop(n)) for n in list(entries) if n.startswith("=")}
        assert_same(name, count, entries, metrics, parity)


def test_statistics_of_each_device():
    """Each normalises by its own images; the running ones are averaged over those that have any."""
    with in_float64():
        images, labels = padded(batch(3, SMALL), 11)  # five devices of two, one of one, two of none
        model, optimizer = start()
        pair = LOSS_AND_MINER["multi_similarity"]
        step = make_step(model, optimizer, *pair, data_mesh(), batch_stats_per_device=True)
        state, metrics = step(create_state(model, optimizer), images, labels)
        assert np.isfinite(float(metrics["parameter_norm"]))
        moved = []
        for at in range(0, 11, 2):
            alone, _ = start()
            alone.train()
            describe(alone, images[at : min(at + 2, 11)])
            moved.append(np.asarray(getattr(alone.backbone.layer2, "0").bn1.var[...]))
        found = weights_of(state)["backbone.layer2.0.bn1.var"]
    assert np.abs(found - np.mean(moved, axis=0)).max() <= 1e-12
    expected, _ = on_one_device("multi_similarity", 11)
    assert np.abs(found - expected["backbone.layer2.0.bn1.var"]).max() > 1e-4


@pytest.mark.parametrize("each", [False, True], ids=["global", "per device"])
def test_a_batch_of_unreadable_images_moves_no_statistics(each):
    with in_float64():
        images, labels = batch(3, SMALL)
        model, optimizer = start()
        pair = LOSS_AND_MINER["multi_similarity"]
        step = make_step(model, optimizer, *pair, data_mesh(), batch_stats_per_device=each)
        state = create_state(model, optimizer)
        before = jax.device_get(state.statistics)
        state, metrics = step(state, np.zeros_like(images), np.full_like(labels, -1))
        assert (metrics["loss"], metrics["images"]) == (0, 0)
        for old, new in zip(*map(jax.tree.leaves, (before, state.statistics)), strict=True):
            assert np.abs(old - new).max() <= 1e-12


def test_the_step_reduces_what_it_should_and_no_more():
    with in_float64():
        model, optimizer = start()
        step = make_step(model, optimizer, multi_similarity, multi_similarity_miner, data_mesh())
        text = step.lower(create_state(model, optimizer), *batch(0, SMALL)).as_text()
    assert text.count("stablehlo.all_gather") == 2  # descriptors, labels
    assert "all_to_all" not in text
    assert "collective_permute" not in text


@pytest.mark.parametrize(
    ("of_others", "raised", "line"),
    [
        (["", "2 a: no such file"], InputError, "a: no such file"),
        (["", "1 ValueError: a fault", "2 later"], OtherFailed, "process 1: ValueError: a fault"),
        (["141 ", ""], OtherFailed, "process 0: "),  # its output has no reader any more
        (["", ""], None, None),
    ],
)
def test_what_keeps_one_keeps_all(of_others, raised, line, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: len(of_others))
    monkeypatch.setattr("mixvpr_jax.distributed.gather_text", lambda _: of_others)
    if raised is None:
        with raise_on_all_processes():
            pass
        return
    with pytest.raises(raised) as error, raise_on_all_processes():
        pass
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("a: wrong"), "2 a: wrong"),
        (PermissionError(13, "Permission denied", "a"), "2 [Errno 13] Permission denied: 'a'"),
        (ValueError("a fault"), "1 ValueError: a fault"),
    ],
    ids=str,
)
def test_whatever_keeps_one_is_told(error, text, monkeypatch):
    texts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("mixvpr_jax.distributed.gather_text", lambda text: texts.append(text) or [])
    with pytest.raises(type(error)), raise_on_all_processes():
        raise error
    assert texts == [text]
