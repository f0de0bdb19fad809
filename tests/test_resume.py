"""Training as real processes: killed, stopped and started again with the same command.

MIXVPR_RESUME_ROUNDS says how many rounds there are. Each draws its own steps, anew each time on a
developer's machine, the same each time where a red run blocks others.
"""

import os
import random
import signal
import time

import pytest
from runs import (
    ON_DEVICE,
    command,
    finish,
    has_reached,
    kill_when,
    log_of,
    saves,
    start,
    told,
    uninterrupted,
)

from mixvpr_jax.training.log import read_log

SAVED = (3, 4, 6, 8, 9, 12)
VALIDATED = (4, 8, 12)
ROUNDS = int(os.environ.get("MIXVPR_RESUME_ROUNDS", "1"))
# Each befalls a run on one device or one on eight, and in the next round the other.
ACCIDENTS = (("stopped", "killed in a validation"), ("killed", "killed in a save"))
WHERE = {1: (), 8: ON_DEVICE}  # images are augmented


@pytest.fixture(scope="module", params=WHERE, ids=["one device", "eight devices"])
def reference(request, town, tmp_path_factory):
    """How many devices, and the folder of a run that nothing befell."""
    devices = request.param
    return devices, uninterrupted(devices, town, tmp_path_factory, *WHERE[devices])[0]


def assert_same_run(workdir, reference):
    assert told(workdir) == told(reference)  # every loss, norm and recall, to the last bit
    for name in ("model.safetensors", "config.json"):
        assert (workdir / "model" / name).read_bytes() == (reference / "model" / name).read_bytes()


def draw(index, devices):
    """What befalls a run, by step, and how long after that step's sign a kill comes."""
    chosen = random.Random(f"{index} {devices}" if os.environ.get("CI") else None)
    at = {
        "killed": chosen.randint(1, 12),
        "stopped": chosen.randint(1, 10),
        "killed in a save": chosen.choice(SAVED),
        "killed in a validation": chosen.choice(VALIDATED),
    }
    names = sorted(ACCIDENTS[(index + (devices > 1)) % 2], key=lambda name: at[name])
    return [(name, at[name], chosen.uniform(0, 0.03)) for name in names]


def kill_at_step(process, workdir, step, pause):
    before = log_of(workdir)
    return kill_when(process, lambda: has_reached(workdir, step, before), pause)


def kill_in_a_save(process, workdir, step):
    """The unfinished checkpoint is passed over; the one before it is there."""
    before = saves(workdir)

    def unfinished():
        return [number for number, _ in saves(workdir) - before if number >= step]

    if not kill_when(process, unfinished) or not (broken := unfinished()):
        return False
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    whole = max((int(name) for name in names if name.isdigit()), default=0)
    assert max((n for n in SAVED if n < broken[0]), default=0) <= whole < broken[0]
    return True


def kill_in_a_validation(process, workdir, step, pause):
    """Its checkpoint is being saved, or is there, and its recalls are not."""
    before = log_of(workdir)

    def validating():
        if log_of(workdir) in (None, before):
            return False
        saved = {path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()}
        for last in read_log(workdir / "metrics.jsonl")[-1:]:
            at = last["step"]
            return "loss" in last and at in VALIDATED and at >= step and str(at) in saved

    return kill_when(process, validating, pause) and bool(validating())


def ask_to_stop(process, workdir, step, number):
    """The step is finished and saved, and the run ends well."""
    before = log_of(workdir)
    while not has_reached(workdir, step, before):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    status, output, errors = finish(process)
    assert status == 0, errors
    assert "leaked" not in errors  # what a worker shares is removed without a word
    assert "; run the same command to resume" in output
    stopped = int(output.split("stopped at step ")[1].split()[0])
    assert stopped >= step
    assert (workdir / "checkpoints" / str(stopped)).is_dir()
    assert not (workdir / "model").exists()
    return True


@pytest.mark.parametrize("index", range(ROUNDS))
def test_whatever_befalls_it_the_run_is_the_same(reference, town, tmp_path, index):
    devices, whole = reference
    happened = []
    for number, (name, step, pause) in enumerate(draw(index, devices)):
        # Whatever number of processes decodes the images.
        options = (*WHERE[devices], "--data.num-workers", number % 2)
        process = start(command(town, tmp_path, *options), devices)
        match name:
            case "killed":
                real = kill_at_step(process, tmp_path, step, pause)
            case "killed in a save":
                real = kill_in_a_save(process, tmp_path, step)
            case "killed in a validation":
                real = kill_in_a_validation(process, tmp_path, step, pause)
            case _:
                asked = signal.SIGINT if (index + devices) % 2 else signal.SIGTERM
                real = ask_to_stop(process, tmp_path, step, asked)
        happened.append((name, step, real))
    print(f"{devices} devices:", *happened)
    assert any(real for *_, real in happened)  # on a busy machine a kill may come too late
    status, _, errors = finish(start(command(town, tmp_path, *WHERE[devices]), devices))
    assert status == 0, errors
    assert_same_run(tmp_path, whole)
