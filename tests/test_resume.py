"""Training as real processes: killed, stopped and started again with the same command.

MIXVPR_RESUME_ROUNDS says how many rounds there are. Each draws its own steps, anew each time on a
developer's machine, the same each time where a red run blocks others.
"""

import os
import random
import signal
import time

import pytest
from runs import command, finish, has_reached, kill_when, log_of, saves, start, told
from shared import once

from mixvpr_jax.training.log import read_log

SAVED = (3, 4, 6, 8, 9, 12)
VALIDATED = (4, 8, 12)
ROUNDS = int(os.environ.get("MIXVPR_RESUME_ROUNDS", "1"))
# Beside a kill at any step; a round leaves one of them out, so that it is over sooner.
ACCIDENTS = ("stopped", "killed in a save", "killed in a validation")


@pytest.fixture(scope="module", params=[1, 8], ids=["one device", "eight devices"])
def uninterrupted(request, town, tmp_path_factory):
    """How many devices, and the folder of a run that nothing befell."""

    def run(folder):
        status, _, errors = finish(start(command(town, folder / "run"), request.param))
        assert status == 0, errors
        return request.param, folder / "run"

    return once(tmp_path_factory, f"uninterrupted_{request.param}", run)


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
    del at[ACCIDENTS[(index + devices) % 3]]
    pauses = {name: chosen.uniform(0, 0.03) for name in at}
    return [(name, at[name], pauses[name]) for name in sorted(at, key=lambda name: at[name])]


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
    assert "; run the same command to resume" in output
    stopped = int(output.split("stopped at step ")[1].split()[0])
    assert stopped >= step
    assert (workdir / "checkpoints" / str(stopped)).is_dir()
    assert not (workdir / "model").exists()
    return True


@pytest.mark.parametrize("index", range(ROUNDS))
def test_whatever_befalls_it_the_run_is_the_same(uninterrupted, town, tmp_path, index):
    devices, reference = uninterrupted
    happened = []
    for number, (name, step, pause) in enumerate(draw(index, devices)):
        # Whatever number of processes decodes the images.
        options = ("--data.num-workers", number % 2)
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
    status, _, errors = finish(start(command(town, tmp_path), devices))
    assert status == 0, errors
    assert_same_run(tmp_path, reference)
