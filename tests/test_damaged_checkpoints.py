"""Checkpoints that a disk or a copy has damaged: noticed, said, and the one before is taken."""

import errno
import gc
import json
import os
import resource
import shutil
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from runs import assert_weights, measure_instead, tiny_config, town  # noqa: F401

from mixvpr_jax import InputError
from mixvpr_jax.training.checkpoint import Checkpoints, DamagedCheckpoint
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.step import TrainState

# tensorstore's threads, which still read when the first of them has failed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """What such reads leave is reported here, and not in the test of another file."""
    yield
    gc.collect()


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
    assert "restoring the one before" in caplog.text


def test_devices_share_the_writing_of_a_large_array(tmp_path):
    """Slices and whole arrays come back as they were saved, also on fewer devices."""
    values = np.random.default_rng(0).standard_normal((1024, 2049), np.float32)  # 8.4 MB
    params = {"kernel": values, "bias": np.arange(5.0, dtype=np.float32)}
    state = TrainState(params, {}, {"momentum": params}, np.int32(1))
    mesh = jax.make_mesh((8,), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(state, everywhere)
    with closing(Checkpoints(tmp_path / "checkpoints", keep_both)) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.finish()
        for where in (everywhere, jax.devices()[0]):
            found, _ = checkpoints.restore(1, jax.device_put(state, where))
            for kept in (found.params, found.optimizer["momentum"]):
                assert np.array_equal(kept["kernel"], values)
                assert np.array_equal(kept["bias"], params["bias"])


def of_system(code):
    return OSError(code, os.strerror(code))


def of_tensorstore(code):
    """As its Python module raises what the system said, and Orbax wraps that."""
    inner = ValueError(
        f"RESOURCE: Error reading local file: Failed to open [os_error_code='{code}']"
    )
    error = Exception("Encountered error while reading array index: ()")
    error.__cause__ = inner
    return error


OF_SYSTEM = [
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
    *(errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN),
]
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 268435456 bytes."
OF_MACHINE = [
    *map(of_system, OF_SYSTEM),
    *map(of_tensorstore, OF_SYSTEM),
    TimeoutError(),
    ConnectionResetError(),
    MemoryError(),
    RuntimeError("can't start new thread"),
    jax.errors.JaxRuntimeError(OUT_OF_MEMORY),
    jax.errors.JaxRuntimeError("INTERNAL: CUDA error: unspecified launch failure"),
    ValueError("UNAVAILABLE: the file server does not answer"),
]


@pytest.mark.parametrize("error", OF_MACHINE, ids=lambda error: f"{error.__cause__ or error}"[:60])
@pytest.mark.parametrize("where", ["metadata", "arrays"])
def test_what_ails_the_machine_is_no_damage(saved, tmp_path, monkeypatch, error, where):
    """One line, nothing is moved, and the last checkpoint is there for the same command."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    before = sorted(tmp_path.rglob("*"))
    with closing(Checkpoints(folder, keep_both)) as checkpoints:
        with monkeypatch.context() as patched:
            owner = ocp.PyTreeCheckpointHandler if where == "metadata" else ocp.CheckpointManager
            name = "metadata" if where == "metadata" else "restore"
            patched.setattr(owner, name, Mock(side_effect=error))
            for read in (
                lambda: checkpoints.restore_last(state_of(0)),
                lambda: checkpoints.weights(2),
            ):
                with pytest.raises(
                    InputError, match=r"checkpoints/2: expected to read the"
                ) as told:
                    read()
                assert not isinstance(told.value, DamagedCheckpoint)
                assert "run the same command to resume" in str(told.value)
        assert sorted(tmp_path.rglob("*")) == before
        assert checkpoints.restore_last(state_of(0))[0] == 2


@pytest.mark.parametrize(
    "error",
    [
        of_system(errno.ENOENT),
        of_system(errno.ENOTDIR),
        of_tensorstore(errno.ENOENT),
        FileNotFoundError("File checkpoints/2/checksums/metadata not found."),
        ValueError("DATA_LOSS: Error reading array: CRC-32C checksum verification failed"),
        json.JSONDecodeError("Expecting value", "", 0),
        UnicodeDecodeError("utf-8", b"", 0, 1, "invalid start byte"),
        KeyError("params"),
        EOFError(),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_damage(saved, monkeypatch, error):
    with closing(Checkpoints(saved, only_read=True)) as checkpoints:
        monkeypatch.setattr(ocp.CheckpointManager, "restore", Mock(side_effect=error))
        with pytest.raises(DamagedCheckpoint, match=r"checkpoints/2: damaged \("):
            checkpoints.restore(2, state_of(0))
        with pytest.raises(DamagedCheckpoint, match=r"checkpoints/2: damaged \("):
            checkpoints.weights(2)


def test_a_file_that_may_not_be_read_is_not_missing(saved, monkeypatch):
    """Libraries say that it is not there; what the system says of it counts."""
    missing = FileNotFoundError("File checkpoints/2/checksums/metadata not found.")

    def refuse(path, *arguments):
        del arguments
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with closing(Checkpoints(saved, only_read=True)) as checkpoints:
        monkeypatch.setattr(ocp.CheckpointManager, "restore", Mock(side_effect=missing))
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(
            InputError, match="expected to read the checkpoint, found: Permission d"
        ):
            checkpoints.restore(2, state_of(0))


def test_too_many_open_files(saved):
    """The real thing, once all modules are loaded (that of pytest's hooks among them)."""
    import tracemalloc  # noqa: F401

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(Checkpoints(saved, only_read=True)) as checkpoints:
        assert checkpoints.restore_last(state_of(0))[0] == 2
        full = os.dup(0)  # the lowest number that is free
        os.close(full)
        resource.setrlimit(resource.RLIMIT_NOFILE, (full, limits[1]))
        try:
            with pytest.raises(InputError, match="expected to read .*, found: Too many open files"):
                checkpoints.restore_last(state_of(0))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert checkpoints.restore_last(state_of(0))[0] == 2


def test_weights_of_another_run_are_those_that_were_saved(saved, tmp_path):
    """A bit in an array decodes to other numbers: its checksum tells."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    with closing(Checkpoints(folder, only_read=True)) as checkpoints:
        assert np.array_equal(checkpoints.weights(2)["kernel"], state_of(2).params["kernel"])
    for path in files_of(folder / "2" / "state"):  # which of them holds the kernel, Orbax decides
        flipped(path)
    damaged = pytest.raises(DamagedCheckpoint, match=r"checkpoints/2: damaged \(")
    with closing(Checkpoints(folder, only_read=True)) as checkpoints, damaged:
        checkpoints.weights(2)


def test_none_is_whole(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in (1, 2):
        for path in files_of(folder / str(step) / "state"):
            cut(path)
    none = pytest.raises(InputError, match="expected an undamaged checkpoint, found 2 damaged")
    with closing(Checkpoints(folder, keep_both)) as checkpoints, none:
        checkpoints.restore_last(state_of(0))
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]  # left as they are


def test_nothing_was_saved(tmp_path):
    with closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        assert checkpoints.restore_last(state_of(0)) is None


def test_a_run_that_cannot_read_its_best_checkpoint_goes_on_later(
    town,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    """It takes no other model for the best: with memory again, the same command does."""
    config, workdir = tiny_config(town, epochs=2), tmp_path / "run"
    measure_instead(monkeypatch, {4: 90.0, 8: 10.0})
    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "restore", Mock(side_effect=MemoryError()))
        with pytest.raises(InputError, match="checkpoints/4: expected to read .* MemoryError"):
            train(config, workdir)
        assert not (workdir / "model").exists()
        with pytest.raises(InputError, match="checkpoints/8: expected to read .* MemoryError"):
            train(config, workdir)
    outcome = train(config, workdir)
    assert outcome.metrics["test/recall@1"] == 90
    assert not (workdir / "damaged_checkpoints").exists()
    with closing(Checkpoints(workdir / "checkpoints", only_read=True)) as checkpoints:
        assert_weights(outcome.model, checkpoints.weights(4))


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
