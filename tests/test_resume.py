"""Training as real processes: killed, stopped and started again with the same command.

Each round has its own random steps; MIXVPR_RESUME_ROUNDS says how many there are.
"""

import os
import random
import signal
import time

import pytest
from runs import command, finish, has_reached, is_saving, kill_when, log_of, start, told

STEPS = 12
SAVED = (3, 4, 6, 8, 9, 12)
ROUNDS = int(os.environ.get("MIXVPR_RESUME_ROUNDS", "1"))


@pytest.fixture(scope="module", params=[1, 8], ids=["one device", "eight devices"])
def uninterrupted(request, town, tmp_path_factory):
    """How many devices, and the folder of a run that nothing befell."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    status, _, errors = finish(start(command(town, workdir), request.param))
    assert status == 0, errors
    return request.param, workdir


def assert_same_run(workdir, reference):
    assert told(workdir) == told(reference)  # every loss, norm and recall, to the last bit
    for name in ("model.safetensors", "config.json"):
        assert (workdir / "model" / name).read_bytes() == (reference / "model" / name).read_bytes()


def kill_at_step(process, workdir, step, pause):
    def reached():
        if has_reached(workdir, step):
            time.sleep(pause)
            return True
        return False

    assert kill_when(process, reached), "the run ended first"


def ask_to_stop(town, workdir, devices, step, number):
    """Starts a run and asks it to stop: the step is finished and saved, and the run ends well."""
    before = log_of(workdir)
    process = start(command(town, workdir), devices)
    while not has_reached(workdir, step, before):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    status, output, errors = finish(process)
    assert status == 0, errors
    assert "; the same command goes on" in output
    stopped = int(output.split("stopped at step ")[1].split()[0])
    assert stopped >= step
    assert (workdir / "checkpoints" / str(stopped)).is_dir()
    assert not (workdir / "model").exists()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_whatever_befalls_it_the_run_is_the_same(uninterrupted, town, tmp_path, seed):
    devices, reference = uninterrupted
    chosen = random.Random(10 * seed + devices)

    def again(num_workers=0):
        """Whatever number of processes decodes the images."""
        return start(command(town, tmp_path, "--data.num-workers", num_workers), devices)

    kill_at_step(again(), tmp_path, chosen.randint(1, 5), chosen.uniform(0, 0.03))
    # Killed during a save: the unfinished checkpoint is passed over, the one before it is used.
    broken = chosen.choice([8, 9])
    assert kill_when(again(num_workers=1), lambda: is_saving(tmp_path, broken))
    whole = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert broken not in whole
    assert max(whole) == max(step for step in SAVED if step < broken)
    ask_to_stop(town, tmp_path, devices, chosen.randint(broken - 1, 10), signal.SIGTERM)
    status, _, errors = finish(again())
    assert status == 0, errors
    assert_same_run(tmp_path, reference)


def test_interrupted_from_the_keyboard(uninterrupted, town, tmp_path):
    devices, reference = uninterrupted
    if devices > 1:
        pytest.skip("signals are not the devices' business")
    ask_to_stop(town, tmp_path, devices, 5, signal.SIGINT)
    assert finish(start(command(town, tmp_path)))[0] == 0
    assert_same_run(tmp_path, reference)
