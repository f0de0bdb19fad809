"""How every command ends, whatever ends it: one line and a status, from its first import on."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from folders import write_images
from runs import ROOT, finish, start

import mixvpr_jax
from mixvpr_jax.errors import InputError, explain, run_command, starting

COMMANDS = {
    "train": ["train.py", "demo", "--workdir", "run"],
    "eval": ["eval.py"],
    "to flax": ["-m", "convert.torch_to_flax", "a.ckpt", "folder"],
    "to torch": ["-m", "convert.flax_to_torch", "folder", "a.ckpt"],
    "draw": ["-m", "demo.draw", "folder"],
    "prepare": ["-m", "mixvpr_jax.data.prepare", "gsv_cities"],
    "show": ["-m", "mixvpr_jax.training.show", "--config", "demo"],
    "export": ["-m", "mixvpr_jax.evaluation.export_index", "out", "file"],
}
SLOW = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:  # as in libraries that try whether something can be imported
    pass
"""
ENDS = {signal.SIGINT: (130, "interrupted\n"), signal.SIGTERM: (143, "terminated\n")}


def run(arguments, **environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_signal_during_imports(name, number, tmp_path, monkeypatch):
    (tmp_path / "tyro.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    process = start([sys.executable, *COMMANDS[name]])
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert finish(process, 30) == (ENDS[number][0], "", ENDS[number][1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prepare", ["--data-dir", "city", "--output", "data"]),
        ("show", ["--output", "shown"]),
        ("export", []),
        ("to flax", []),
    ],
)
def test_surplus_words(name, options):
    done = run([*COMMANDS[name], *options, "b", "c d"])
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*: expected only .*, found b 'c d'; .*\n", done.stderr)


@pytest.fixture
def evaluation(model, tmp_path):
    """The command that evaluates a small model, on more images than are soon described."""
    mixvpr_jax.save_pretrained(model, tmp_path / "model")
    folder = write_images(tmp_path / "photos", [f"{index}.jpg" for index in range(40)])
    arguments = ["eval.py", "--weights", tmp_path / "model", "--latency-queries", 0]
    arguments += ["--cache-gigabytes", 0, "--batch-size", 1, "--output", tmp_path / "out"]
    return [*arguments, "--database", folder, "--queries", folder]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_during_an_evaluation(number, workers, evaluation, tmp_path):
    """To the whole group, as from a terminal or a batch system; nothing is left."""
    arguments = [sys.executable, *evaluation, "--num-workers", workers]
    process = start(arguments, start_new_session=True)
    while not (begun := list(tmp_path.glob(".out.*"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    assert begun[0].is_dir()
    time.sleep(0.3)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert finish(process, 60) == (ENDS[number][0], "", ENDS[number][1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        *(("train", "cuda"), ("eval", "gpu"), ("to torch", "tpu"), ("eval", "nonsense")),
        ("to torch", "cpu,tpu"),  # of which JAX has the CPU when it is asked again
    ],
)
def test_devices_that_are_not_there(name, platform, evaluation, tmp_path):
    arguments = {
        "train": ["train.py", "demo", "--workdir", tmp_path / "run"],
        "eval": evaluation,
        "to torch": ["-m", "convert.flax_to_torch", tmp_path / "model", tmp_path / "a.ckpt"],
    }[name]
    ended = run(arguments, JAX_PLATFORMS=platform)
    assert (ended.returncode, ended.stdout) == (2, "")
    line = f"error: JAX_PLATFORMS={platform}: expected devices that JAX can use here, found: "
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_ENABLE_X64", "maybe"),
        ("JAX_NUM_CPU_DEVICES", "two"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "tf32"),
        ("JAX_DEFAULT_DEVICE", "cuda:0"),
    ],
)
def test_values_that_jax_does_not_take(name, value, evaluation, tmp_path):
    ended = run(evaluation, **{name: value})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {name}: expected a value that JAX takes (")
    assert ended.stderr.endswith("; correct or unset it\n")
    assert ended.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "photos"]


def test_devices_that_nobody_asked_for(evaluation):
    """As a plug-in for CUDA without its driver fails."""
    ended = run(evaluation, JAX_PLATFORMS="", JAX_NUM_CPU_DEVICES="0")
    assert (ended.returncode, ended.stdout) == (2, "")
    line = (
        "error: expected devices that JAX can use here, found: Unable to initialize backend 'cpu'"
    )
    assert ended.stderr.startswith(line)
    assert ended.stderr.endswith("or set JAX_PLATFORMS=cpu to skip this backend.)\n")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "device", "platforms"),
    [
        ("JAX_PLATFORM_NAME", "tpu", ""),  # the older one
        ("JAX_DEFAULT_DEVICE", "gpu", ""),
        ("JAX_DEFAULT_DEVICE", "tpu", "cpu"),
    ],
)
def test_other_variables_of_devices(name, device, platforms, evaluation):
    ended = run(evaluation, JAX_PLATFORMS=platforms, **{name: device})
    assert (ended.returncode, ended.stdout) == (2, "")
    line = f"error: {name}={device}: expected devices that JAX can use here, found: "
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(closed, evaluation, tmp_path):
    """As a service starts a command, which would find the numbers of its own files there."""
    line = f'"$@" {closed}'
    arguments = ["sh", "-c", line, "sh", sys.executable, *map(str, evaluation)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(arguments, cwd=ROOT, env=environment, timeout=120, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_streams_that_are_not_there(name, monkeypatch):
    """As under pythonw."""
    monkeypatch.setattr(sys, name, None)
    run_command(lambda: getattr(sys, name).write("to nowhere"))
    getattr(sys, name).close()


def test_a_signal_that_the_parent_ignores():
    """As in a script's background jobs, which Ctrl-C in the terminal must not end."""
    code = "with starting():\n    pass\nrun_command(lambda: os.kill(os.getpid(), signal.SIGINT))"
    lines = "import os, signal\nfrom mixvpr_jax.errors import run_command, starting\n"
    ended = subprocess.run(
        ["sh", "-c", 'trap "" INT; "$@"', "sh", sys.executable, "-c", lines + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nobody_reads_the_output():
    """As before `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "train.py"], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


def test_the_output_cannot_be_written():
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [sys.executable, "train.py"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 2
    assert process.stderr.startswith(
        "error: expected room for the output of this command, found: No "
    )
    assert process.stderr.count("\n") == 1


def test_names_that_the_terminal_cannot_show(evaluation, tmp_path):
    out = tmp_path / os.fsdecode(b"stra\xc3\x9fe \xe9")
    evaluation[evaluation.index("--output") + 1] = out
    ended = run([*evaluation, "--recall-values", 1], PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("stra\\xdfe \\udce9/report.html'\n")
    assert (out / "results.json").exists()


def test_a_library_that_is_not_installed_is_no_input(tmp_path):
    """A fault of the installation keeps its traceback."""
    (tmp_path / "tyro.py").write_text("raise ImportError('no tyro')")
    ended = run(["eval.py"], PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 1
    assert "ImportError: no tyro" in ended.stderr


def test_what_ends_a_command():
    assert explain(InputError("a\nb")) == (2, r"error: a\nb")
    assert explain(OSError(errno.EIO, "Input/output error", "file")) == (
        2,
        "error: [Errno 5] Input/output error: 'file'",
    )
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory")):
        status, line = explain(error)
        assert status == 2
        assert line.startswith("error: expected enough memory, found too little (")
    line = "error: expected to start a thread, found no room for one; raise the limit of processes"
    assert explain(RuntimeError("can't start new thread")) == (2, line)  # Python's words
    assert explain(BrokenPipeError(errno.EPIPE, "Broken pipe")) == (
        2,
        "error: [Errno 32] Broken pipe",
    )
    assert explain(ValueError("a fault")) is None


def test_ctrl_c_while_processes_draw(tmp_path):
    arguments = ["-m", "demo.draw", tmp_path / "town", "--workers", 3]
    process = start([sys.executable, *arguments, "--num-places", 500], start_new_session=True)
    while not list(tmp_path.glob("town/database/@*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process, 60) == (130, "", "interrupted\n")
    assert not list(tmp_path.glob("town/*/.*"))


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_command(lambda: None)
    with starting("a module that is imported"):
        pass
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


COLLECTING = """
import gc
from mixvpr_jax.errors import importing, starting

if OF_A_COMMAND:
    with starting("__main__"):
        print(gc.isenabled())
with importing():
    import unittest.mock
print(gc.isenabled(), gc.get_freeze_count() > 1000)
"""


@pytest.mark.parametrize(
    ("of_a_command", "told"), [("True", "False\nTrue True\n"), ("False", "True False\n")]
)
def test_garbage_is_collected_once_a_command_has_imported(of_a_command, told):
    """Modules are passed over; a process that only calls a command's function stays as it is."""
    code = COLLECTING.replace("OF_A_COMMAND", of_a_command)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout) == (0, told), found.stderr


def test_a_signal_that_comes_twice_is_one(capsys):
    """timeout(1) sends it to the process, and then to its group."""
    undone = []

    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            undone.append(True)

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert (ended.value.code, undone) == (143, [True])
    assert capsys.readouterr().err == "terminated\n"
