"""Checkpoints that a disk or a copy has damaged: noticed, said, and the one before is taken."""

import shutil
from contextlib import closing

import jax.numpy as jnp
import numpy as np
import pytest
from runs import ordinary_promotion, tiny_config, town  # noqa: F401

from mixvpr_jax import InputError
from mixvpr_jax.training.checkpoint import Checkpoints, DamagedCheckpoint
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.step import TrainState

# tensorstore's threads, which still read when the first of them has failed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step):
    values = np.random.default_rng(step).standard_normal((300, 40)).astype(np.float32)
    params = {"kernel": jnp.asarray(values), "bias": jnp.arange(5.0)}
    return TrainState(params, {"mean": jnp.ones(7)}, {"momentum": params}, jnp.int32(step))


def keep_both():
    return (1, 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with closing(Checkpoints(folder, keep_both)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"epoch": step})
    return folder


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flipped, cut, emptied, lambda path: path.unlink()])
def test_whatever_file_is_damaged(saved, tmp_path, damage):
    """Either the last checkpoint is what was saved, or the one before is taken."""
    taken = []
    for index, _ in enumerate(files_of(saved / "2")):
        folder = tmp_path / str(index) / "checkpoints"
        shutil.copytree(saved, folder)
        damage(files_of(folder / "2")[index])
        with closing(Checkpoints(folder, keep_both)) as checkpoints:
            step, found, position = checkpoints.restore_last(state_of(0))
            taken.append(step)
            assert position == {"epoch": step}
            expected = state_of(step)
            assert np.array_equal(found.params["kernel"], expected.params["kernel"])
            assert np.array_equal(found.optimizer["momentum"]["bias"], expected.params["bias"])
            assert int(found.step) == step
            if step == 1:  # the step is free to be saved again
                checkpoints.save(2, state_of(2), {"epoch": 2})
                checkpoints.finish()
                assert checkpoints.restore_last(state_of(0))[0] == 2
                moved = list((folder.parent / "damaged_checkpoints").iterdir())
                assert [path.name.split("_")[0] for path in moved] == ["2"]
    assert taken.count(1) >= 3, taken  # of the files that hold data and their index


def test_a_bit_in_the_arrays_is_noticed(saved, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    largest = max(files_of(folder / "2" / "state"), key=lambda path: path.stat().st_size)
    flipped(largest)
    with closing(Checkpoints(folder, keep_both)) as checkpoints:
        with pytest.raises(DamagedCheckpoint, match=r"checkpoints/2: damaged \("):
            checkpoints.restore(2, state_of(0))
        assert checkpoints.restore_last(state_of(0))[0] == 1
    assert "going on from the one before" in caplog.text


def test_none_is_whole(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in (1, 2):
        for path in files_of(folder / str(step) / "state"):
            cut(path)
    none = pytest.raises(InputError, match="expected a whole checkpoint, found 2 that are damaged")
    with closing(Checkpoints(folder, keep_both)) as checkpoints, none:
        checkpoints.restore_last(state_of(0))
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]  # left as they are


def test_nothing_was_saved(tmp_path):
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        assert checkpoints.restore_last(state_of(0)) is None


@pytest.mark.usefixtures("ordinary_promotion")
def test_a_run_whose_last_checkpoint_is_damaged_ends_as_ever(town, tmp_path, caplog):  # noqa: F811
    config = tiny_config(town, epochs=2)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    last = max(folder.iterdir(), key=lambda path: int(path.name))
    for path in files_of(last / "state"):
        cut(path)
    outcome = train(config, tmp_path / "run")
    assert outcome.step == 8
    assert "8: damaged" in caplog.text
    one, other = (
        (tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "run")
    )
    assert one == other
