"""A tiny town and training runs on it, as processes and in this one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import compiled  # noqa: F401 - keeps programs for the processes of `start`
import numpy as np
import pytest
from shared import once
from tiny_backbone import TinyBackbone

from demo.town import CityConfig, write_evaluation_folders, write_gsv_cities
from mixvpr_jax import from_pretrained
from mixvpr_jax.conversion import get_weights
from mixvpr_jax.data.config import DataConfig
from mixvpr_jax.models.config import MixVPRConfig
from mixvpr_jax.models.plugins import import_path
from mixvpr_jax.storage import as_path
from mixvpr_jax.training.config import OptimizerConfig, StartConfig, TrainConfig, ValidationConfig
from mixvpr_jax.training.loop import train
from mixvpr_jax.training.validation import Validation

ROOT = Path(__file__).parent.parent
ARCH = import_path(TinyBackbone)
RESNET = {"arch": "resnet18", "layers_to_crop": (3, 4)}  # where a test needs one of the package's
# For the processes that tests start.
os.environ["MIXVPR_PLUGINS"] = TinyBackbone.__module__
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)
CITIES = ("Avalon", "Brigadoon")


@pytest.fixture(scope="session")
def town(tmp_path_factory):
    """Seven places in each of two cities to train on, and five others to find."""

    def draw(folder):
        drawn = {"image_size": (36, 48), "difficulty": 0.3}
        write_gsv_cities(CityConfig(7, 5, **drawn, seed=1), folder / "train", cities=CITIES)
        write_evaluation_folders(CityConfig(5, 4, **drawn, seed=2), folder / "test")
        return folder

    return once(tmp_path_factory, "town", draw)


@pytest.fixture(scope="session")
def finished(town, tmp_path_factory):
    """A run to its end, on eight devices: its folder and its outcome."""

    def run(folder):
        return train(tiny_config(town), folder / "run")

    outcome = once(tmp_path_factory, "finished", run)
    # A copy, as tests give the same command again.
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(outcome.model.parent, workdir)
    return workdir, replace(outcome, model=as_path(workdir) / "model")


def tiny_config(town, **changes):
    """Three epochs of four steps, the last of each short: 14 places, 4 a batch."""
    config = TrainConfig(
        model=StartConfig(ARCH, (), MixVPRConfig(8, 1, 1, 2), (32, 40)),
        data=DataConfig(town / "train", CITIES, places_per_batch=4, images_per_place=4),
        optimizer=OptimizerConfig("adamw", 1e-3, warmup_steps=2, layers_to_freeze=None),
        validation=ValidationConfig(sets=(town / "test",), batch_size=8),
        epochs=3,
        log_every_steps=1,
        checkpoint_every_steps=3,
    )
    return replace(config, **changes)


def measure_instead(monkeypatch, recalls):
    """Lets validation find, by step, these values of recall@1."""

    def measured(self, state, on_progress=None):
        del on_progress
        return dict.fromkeys(self.metrics, recalls[int(state.step)])

    monkeypatch.setattr(Validation, "__call__", measured)


def assert_weights(folder, expected):
    """A model's folder holds exactly these weights, by name."""
    found = get_weights(from_pretrained(folder)[0])
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def command(town, workdir, *options):
    """The command that trains `tiny_config`."""
    return [
        *(sys.executable, "train.py", "demo", "--workdir", workdir),
        *("--data.root", town / "train", "--data.places-per-batch", 4),
        *("--model.arch", ARCH, "--model.layers-to-crop", "--model.image-size", 32, 40),
        *("--model.aggregator.out-channels", 8),
        *("--model.aggregator.mix-depth", 1, "--model.aggregator.out-rows", 2),
        *("--data.augmentation.num-ops", 2, "--data.augmentation.canvas", 36, 48),
        *("--optimizer.warmup-steps", 2, "--epochs", 3, "--checkpoint-every-steps", 3),
        *("--validation.sets", town / "test", "--validation.batch-size", 8),
        *options,
    ]


ON_DEVICE = ("--data.augmentation.on", "device")  # for `command`; a third more to compile


def uninterrupted(devices, town, tmp_path_factory, *options):
    """The folder of such a run that nothing befell, and how long it took."""

    def run(folder):
        since = time.monotonic()
        status, _, errors = finish(start(command(town, folder / "run", *options), devices))
        assert status == 0, errors
        return folder / "run", time.monotonic() - since

    return once(tmp_path_factory, f"uninterrupted_{devices}", run)


def start(arguments, devices=1, *, double=False, **options):
    """Starts a command on so many fake devices; where wanted, JAX knows float64."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_ENABLE_X64": str(int(double)),
    }
    return subprocess.Popen(
        [str(argument) for argument in arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, timeout=300):
    """Waits for a process: exit status, output, errors."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


@contextmanager
def small_disk(size):
    """A file system of so many bytes; skips the test where this machine lets us mount none."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no right to mount a small file system here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


def entries(workdir):
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def told(workdir):
    """What a run measured, without its speed."""
    return [{k: v for k, v in entry.items() if "second" not in k} for entry in entries(workdir)]


def kill_when(process, reached, pause=0.0):
    """Sends SIGKILL so long after `reached()` holds; False where the process ended before."""
    while process.poll() is None:
        if reached():
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def has_reached(workdir, step, since=None):
    """Whether a run has told of a step, in another file than `since` (see `log_of`)."""
    path = workdir / "metrics.jsonl"
    return log_of(workdir) not in (None, since) and f'"step": {step},' in path.read_text()


def log_of(workdir):
    """What tells one process's metrics.jsonl from another's: each writes the file anew."""
    path = workdir / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else None


def saves(workdir):
    """The checkpoints that are, or were, being written: their steps, and what tells one from
    another of the same step."""
    found = set()
    for path in (workdir / "checkpoints").glob("*.*tmp*"):
        with suppress(FileNotFoundError):  # renamed by now
            found.add((int(path.name.split(".")[0]), path.stat().st_ino))
    return found
