"""Training and evaluation by several processes: the real commands, on loopback."""

import json
import re
import shutil
import signal
import socket
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from folders import weights  # noqa: F401
from runs import ON_DEVICE, command, finish, small_disk, start, tiny_config, town  # noqa: F401
from shared import once

from mixvpr_jax import InputError, distributed, from_pretrained, save_pretrained
from mixvpr_jax.locks import locked
from mixvpr_jax.models.vpr import create_model
from mixvpr_jax.processes import ProcessConfig
from mixvpr_jax.training import start as start_of_run
from mixvpr_jax.training.config import OptimizerConfig
from mixvpr_jax.training.log import read_log

# Ours; JAX's; that of CPU devices, where the next operation overtakes the one that failed.
OTHER_ENDED = ("another process ended", "another task died", "gloo::EnforceNotMet")
DOUBLE = ("--model.dtype", "float64")  # so that the order of sums does not show


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_all(arguments, processes, devices, port=None, **options):
    """The same command in several processes."""
    port = port or free_port()
    together = ("--coordinator", f"127.0.0.1:{port}", "--processes", processes, "--process-id")
    return [start([*arguments, *together, index], devices, **options) for index in range(processes)]


def finish_all(running, timeout=240):
    """Exit status, output and errors of each; none outlives the test."""
    try:
        return [finish(process, timeout) for process in running]
    finally:
        for process in running:
            process.kill()


def logged(workdir):
    """What a run measured, without speeds."""
    entries = [dict(entry) for entry in read_log(workdir / "metrics.jsonl")]
    for entry in entries:
        entry.pop("images_per_second", None)
    return entries


def assert_same_run(one, other, tolerance):
    assert [sorted(entry) for entry in one] == [sorted(entry) for entry in other]
    for expected, found in zip(one, other, strict=True):
        for name, value in expected.items():
            is_number = not isinstance(value, dict)  # but checksums of validation sets
            wanted = pytest.approx(value, rel=tolerance, abs=tolerance) if is_number else value
            assert found[name] == wanted, name


def run_alone(name, town, tmp_path_factory, *options):  # noqa: F811
    """The folder of a run of one process on eight devices."""

    def run(folder):
        arguments = command(town, folder / "run", *DOUBLE, *options)
        status, _, errors = finish(start(arguments, 8, double=True))
        assert status == 0, errors
        return folder / "run"

    return once(tmp_path_factory, name, run)


@pytest.fixture(scope="module")
def alone(town, tmp_path_factory):  # noqa: F811
    return run_alone("alone", town, tmp_path_factory)


@pytest.fixture(scope="module")
def alone_on_device(town, tmp_path_factory):  # noqa: F811
    return run_alone("alone_on_device", town, tmp_path_factory, *ON_DEVICE)


def told(output):
    """What a process says, but for what its CPU devices say of their connections."""
    # Their threads write piece by piece, one between the pieces of another.
    pieces = r"\[Gloo\] Rank | is connected to | peer ranks\. Expected number [a-z ]+: "
    noise = [line for line in output.splitlines() if re.search(pieces, line)]
    lines = [line for line in output.splitlines() if line not in noise]
    return "\n".join(line for line in lines if not re.fullmatch(r"[\d\s]*", line))


def wait_for_step(workdir, step, processes):
    """Until a run has logged a step."""
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + 200
    while not (path.exists() and any(entry["step"] >= step for entry in read_log(path))):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("where", "then", "options", "reference"),
    [("tmp_path", 4, (), "alone"), ("bucket", 2, ON_DEVICE, "alone_on_device")],
    ids=["disk", "store"],
)
def test_one_is_asked_to_stop_and_others_go_on(
    where,
    then,
    options,
    reference,
    town,  # noqa: F811
    request,
):
    """SIGTERM to one of two processes stops both after the same step; others go on to the end."""
    whole, workdir = request.getfixturevalue(reference), request.getfixturevalue(where) / "run"
    # A save after each step leaves the signal time to arrive.
    arguments = command(town, workdir, *DOUBLE, *options, "--checkpoint-every-steps", 1)
    running = start_all(arguments, 2, 4, double=True)
    try:
        wait_for_step(workdir, 1, running)
        running[1].send_signal(signal.SIGTERM)
    finally:
        found = finish_all(running)
    assert [status for status, _, _ in found] == [0, 0], found
    stopped = r"stopped at step \d+ of 12; run the same command to resume"
    assert re.search(stopped, told(found[0][1]))
    assert told(found[1][1]) == ""  # the first one tells

    found = finish_all(start_all(arguments, then, 8 // then, double=True))
    assert [status for status, _, _ in found] == [0] * then, found
    assert told(found[0][1]).endswith(f"model: {workdir / 'model'}")
    assert_same_run(logged(whole), logged(workdir), 1e-10)


def test_one_dies_and_the_other_does_not_wait(town, alone, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    arguments = command(town, workdir, *DOUBLE)
    running = start_all(arguments, 2, 4, double=True)
    try:
        wait_for_step(workdir, 5, running)
        running[1].kill()
        since = time.monotonic()
        status, _, errors = finish(running[0], 90)
        waited = time.monotonic() - since
    finally:
        finish_all(running)
    assert status != 0
    assert waited < 60
    assert any(line in errors for line in OTHER_ENDED), errors

    status, _, errors = finish(start(arguments, 8, double=True))  # one process goes on
    assert status == 0, errors
    assert_same_run(logged(alone), logged(workdir), 1e-10)


def test_evaluation_is_that_of_one_process(alone, town, tmp_path):  # noqa: F811
    processes, devices = 4, 2
    arguments = [sys.executable, "eval.py", "--weights", alone / "model", "--cache-gigabytes", 0]
    arguments += ["--database", town / "test" / "database", "--queries", town / "test" / "queries"]
    arguments += ["--batch-size", 8, "--latency-queries", 0, "--output"]
    status, output, errors = finish(start([*arguments, tmp_path / "one"], 8, double=True))
    assert status == 0, errors
    found = finish_all(start_all([*arguments, tmp_path / "all"], processes, devices, double=True))
    assert [status for status, _, _ in found] == [0] * processes, found
    assert told(found[0][1]) == output.strip().replace(str(tmp_path / "one"), str(tmp_path / "all"))
    assert [told(output) for _, output, _ in found[1:]] == [""] * (processes - 1)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == names
    for name in ("predictions.csv",):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "all" / name).read_text()
    one, every = (
        json.loads((tmp_path / part / "results.json").read_text()) for part in ("one", "all")
    )
    for name in ("recall", "protocol"):
        assert one[name] == every[name]
    for part in ("database", "query"):
        expected, given = (
            np.load(tmp_path / side / f"{part}_descriptors.npy") for side in ("one", "all")
        )
        assert np.abs(expected - given).max() <= 1e-10


def errors_of(output):
    """What a process says of errors; both processes the same."""
    return [line for line in told(output).splitlines() if line.startswith("error: ")]


def test_what_the_first_one_may_not_write_ends_all(alone, town, tmp_path):  # noqa: F811
    """Not one with its line, and the others by its end."""
    arguments = [sys.executable, "eval.py", "--weights", alone / "model", "--cache-gigabytes", 0]
    arguments += ["--database", town / "test" / "database", "--queries", town / "test" / "queries"]
    arguments += ["--latency-queries", 0, "--dtype", "float32", "--output"]
    found = finish_all(start_all([*arguments, "/proc/out"], 2, 1))
    assert [status for status, _, _ in found] == [2, 2], found
    first, second = (errors_of(errors) for _, _, errors in found)
    assert first == second
    assert "/proc/" in first[0]

    with small_disk("64k") as disk:  # full once all is computed
        found = finish_all(start_all([*arguments, disk / "out"], 2, 1))
        assert [status for status, _, _ in found] == [2, 2], found
        first, second = (errors_of(errors) for _, _, errors in found)
        assert first == second
        assert first[0].startswith(f"error: {disk}/out: expected room on the disk, found: ")
        assert list(disk.iterdir()) == []


def test_another_run_is_in_the_folder(town, tmp_path):  # noqa: F811
    with locked(tmp_path / "run", "run"):
        found = finish_all(start_all(command(town, tmp_path / "run"), 2, 1))
    assert [status for status, _, _ in found] == [2, 2], found
    for _, _, errors in found:
        (line,) = errors_of(errors)
        assert line.startswith(f"error: {tmp_path}/run: expected no other run here, found one of ")
    assert not (tmp_path / "run").exists()


def test_each_has_a_disk_of_its_own(town, tmp_path):  # noqa: F811
    """One copy of the data lacks images, which --data.skip-missing leaves out."""
    copy = shutil.copytree(town / "train", tmp_path / "copy")
    for image in sorted((copy / "Images" / "Avalon").iterdir())[:2]:
        image.unlink()
    port, running = free_port(), []
    for index, root in enumerate((town / "train", copy)):
        arguments = command(town, tmp_path / "run", "--data.skip-missing", "--data.root", root)
        together = ("--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process-id", index)
        running.append(start([*arguments, *together], 1))
    found = finish_all(running)
    assert [status for status, _, _ in found] == [2, 2], found
    line = r"error: process 1: expected what process 0 has, found others \(images: '\w+' there, .*"
    for _, _, errors in found:
        (told_line,) = errors_of(errors)
        assert re.fullmatch(line, told_line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 5}, r"\(seed: 190223 there, 5 here\)"),
        (
            {"optimizer": OptimizerConfig("adamw", 0.03, layers_to_freeze=None)},
            r"\(.*learning_rate: 0.001 there, 0.03 here",
        ),
        ({"epochs": 4}, r"\(epochs: 3 there, 4 here\)"),
        ({"checkpoint_every_steps": 4}, r"\(checkpoint_every_steps: 3 there, 4 here\)"),
        ({"images": "5e7"}, r"\(images: 'a11' there, '5e7' here\)"),
        ({"sets": "5e7"}, r"\(sets\.test: 'a11' there, '5e7' here\)"),
        ({"model": 1}, r"\(weights: '\w{8}' there, '\w{8}' here\)"),
    ],
)
def test_all_take_the_same(town, monkeypatch, changes, line):  # noqa: F811
    config, texts = tiny_config(town), []

    def check(images="a11", sets="a11", model=0, **changes):
        described = create_model(config.model.architecture, seed=model)
        own = replace(config, **changes), images, {"test": sets}, described
        start_of_run.require_same_on_all_processes(*own)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "gather_text", lambda text: texts.append(text) or texts)
    check()
    check(data=replace(config.data, root="/copy", num_workers=1))
    with pytest.raises(InputError, match=f"process 1: .* found others {line}"):
        check(**changes)


@pytest.mark.parametrize("other", ["photos", "weights", "options"])
def test_all_evaluate_the_same(weights, town, tmp_path, other):  # noqa: F811
    copy = shutil.copytree(town / "test", tmp_path / "copy")
    model, options, line = weights, (), r"weights: '\w{8}' there, '\w{8}' here"
    if other == "photos":  # as many, of which one has another name
        first = min((copy / "database").iterdir())
        first.rename(first.with_name(first.name.replace("view", "other")))
        line = r"images: '\w{8}' there, '\w{8}' here"
    elif other == "weights":
        model = copy / "model"
        save_pretrained(create_model(from_pretrained(weights)[0].config, seed=1), model)
    else:
        options, line = ("--recall-values", 1), r"recall_values: None there, \[1\] here"
    port, running = free_port(), []
    for index, (root, own) in enumerate(((town / "test", weights), (copy, model))):
        arguments = [sys.executable, "eval.py", "--weights", own, "--output"]
        arguments += [tmp_path / "out", "--database", root / "database"]
        arguments += ["--queries", root / "queries", *(options if index else ())]
        together = ("--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process-id", index)
        running.append(start([*arguments, *together], 1))
    found = finish_all(running)
    assert [status for status, _, _ in found] == [2, 2], found
    for _, _, errors in found:
        (told_line,) = errors_of(errors)
        assert re.search(rf"process 1: .*process 0 has, found others \({line}\); ", told_line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("host:1234", None, 0), "expected --coordinator, --processes and --process-id"),
        (("host", 2, 0), "coordinator: expected host:port, found 'host'"),
        (("host:1234", 2, 2), "process_id: expected 0 to 1, found 2"),
    ],
)
def test_senseless_processes(values, message):
    with pytest.raises(InputError, match=message):
        ProcessConfig(*values)


def test_processes_with_different_numbers_of_devices(town, tmp_path):  # noqa: F811
    """Say, hosts with one GPU and with three."""
    together = ("--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process-id")
    arguments = command(town, tmp_path / "run")
    running = [start([*arguments, *together, i], devices) for i, devices in enumerate((1, 3))]
    for status, _, errors in finish_all(running):
        assert status == 2
        assert "error: expected as many devices in each process, found 1, 3; show" in errors
    assert not (tmp_path / "run").exists()


MEET = """
import sys
from mixvpr_jax import distributed
from mixvpr_jax.processes import ProcessConfig, run_and_leave

def main():
    address, process_id = sys.argv[1], int(sys.argv[2])
    with distributed.joined(ProcessConfig(address, 2, process_id), training=True):
        pass

distributed.START_SECONDS = 3
run_and_leave(main)
"""


@pytest.mark.parametrize("process_id", [0, 1])
def test_the_others_do_not_come(process_id):
    address = f"127.0.0.1:{free_port()}"
    status, _, errors = finish(start([sys.executable, "-c", MEET, address, process_id]), 60)
    assert status == 2, errors
    assert f"error: expected 2 processes at {address} within 3 s, found fewer; start" in errors


def test_another_program_has_the_port():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, _, errors = finish(start([sys.executable, "-c", MEET, address, 0]), 60)
    assert status == 2, errors
    assert errors.startswith("error: coordinator: expected a free port here, found ")
