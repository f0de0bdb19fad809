"""What happens to runs on real machines, one fault a function.

Each starts a run, lets one thing go wrong at a random moment, checks how the command ended, and
returns that in a few words. The same command must then go on to the same model.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from runs import ROOT, command, finish, start
from test_processes import finish_all, start_all

PATIENCE_SECONDS = 240  # for what must not hang, on a machine that may be busy
CLOCK = Path(__file__).parent / "clock"


class Hangs(AssertionError):
    """A command that did not end."""


@dataclass
class Bench:
    """Where a fault happens.

    Attributes:
        town: The images.
        workdir: The run's folder.
        random: Says when and where.
        seconds: How long a run takes that nothing ails.
        expected: Its model's file.
        images: A copy of the images to train on, for faults that change them.
    """

    town: Path
    workdir: Path
    random: Random
    seconds: float
    expected: Path = Path()
    images: Path | None = None

    def command(self, *options: object) -> list[object]:
        """The command that trains, on a copy of the images where the fault needs one."""
        more = ("--data.root", self.images) if self.images else ()
        return [*command(self.town, self.workdir, *options), *more]

    def start(self, *options: object, **settings: object) -> subprocess.Popen[str]:
        return start(self.command(*options), 2, **settings)

    def sleep(self) -> None:
        """Until some moment of a run."""
        time.sleep(self.random.uniform(0, self.seconds))

    def some_step(self) -> int:
        return self.random.randrange(1, 9)

    def wait_for_step(self, process: subprocess.Popen[str], step: int) -> None:
        log = self.workdir / "metrics.jsonl"
        until = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < until:
            if log.exists() and f'"step": {step},' in log.read_text():
                return
            time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and the line that says why; Hangs where there is no end in time."""
    try:
        status, _, errors = finish(process, PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Hangs(f"no end after {PATIENCE_SECONDS} s") from None
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    return status, told[0] if len(told) == 1 else errors


def goes_on(bench: Bench) -> str:
    """The same command, to the end; what it warned of."""
    process = bench.start()
    try:
        status, output, errors = finish(process, PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Hangs("the same command does not end") from None
    assert status == 0, errors[-2000:]
    return output


def told_in_a_line(status: int, line: str) -> str:
    assert status == 2, (status, line)
    assert line.startswith("error: "), line
    return "one line"


def killed(bench: Bench) -> str:
    """SIGKILL at any moment: imports, the first compile, a step, a save, validation."""
    process = bench.start()
    bench.sleep()
    process.kill()
    process.communicate()
    return "killed"


def killed_while_saving(bench: Bench) -> str:
    """SIGKILL while a checkpoint is being written."""
    process = bench.start()
    until = time.monotonic() + PATIENCE_SECONDS
    wanted = bench.random.randrange(1, 3)
    seen: set[str] = set()
    while process.poll() is None and time.monotonic() < until and len(seen) < wanted:
        seen |= {path.name for path in (bench.workdir / "checkpoints").glob("*tmp*")}
        time.sleep(0.0005)
    time.sleep(bench.random.uniform(0, 0.02))
    process.kill()
    process.communicate()
    return "killed"


def asked_to_stop(bench: Bench) -> str:
    """SIGTERM at any moment."""
    process = bench.start()
    bench.sleep()
    process.send_signal(signal.SIGTERM)
    status, line = ended(process)
    assert status in (0, -signal.SIGTERM), (status, line)
    return "saved" if status == 0 else "ended before it began"


def one_of_two_killed(bench: Bench) -> str:
    """SIGKILL to one of two processes; the other must not wait for it."""
    running = start_all(bench.command(), 2, 1)
    bench.wait_for_step(running[0], bench.some_step())
    unlucky = bench.random.randrange(2)
    running[unlucky].kill()
    since = time.monotonic()
    try:
        status, _, errors = finish(running[1 - unlucky], 60)
    except subprocess.TimeoutExpired:
        raise Hangs("the other process waits") from None
    finally:
        finish_all(running)
    assert status != 0 or "another" not in errors
    return f"the other ended within {5 * (1 + int(time.monotonic() - since) // 5)} s"


def damaged_checkpoint(bench: Bench) -> str:
    """A file of the last checkpoint is cut short, or one of its bits turns."""
    process = bench.start()
    bench.wait_for_step(process, bench.random.randrange(5, 9))
    process.send_signal(signal.SIGTERM)
    ended(process)
    steps = (bench.workdir / "checkpoints").iterdir()
    last = max((path for path in steps if path.name.isdigit()), key=lambda path: int(path.name))
    files = sorted(path for path in last.rglob("*") if path.is_file() and path.stat().st_size)
    chosen = bench.random.choice(files)
    data = bytearray(chosen.read_bytes())
    at = bench.random.randrange(len(data))
    if bench.random.random() < 0.5:
        chosen.write_bytes(data[:at])
    else:
        data[at] ^= 1 << bench.random.randrange(8)
        chosen.write_bytes(data)
    output = goes_on(bench)
    return "the one before was taken" if "going on from the one before" in output else "no effect"


def broken_image(bench: Bench) -> str:
    """Images vanish, or are cut short, while the run reads them."""
    pictures = sorted(bench.images.rglob("*.jpg"))
    bad = bench.random.sample(pictures, 8)
    kept = {path: path.read_bytes() for path in bad}
    process = bench.start("--data.max-unreadable", 0)
    bench.sleep()
    for path, data in kept.items():
        if bench.random.random() < 0.5:
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2])
    status, line = ended(process)
    for path, data in kept.items():
        path.write_bytes(data)
    return "not met" if status == 0 else told_in_a_line(status, line)


def stalled_worker(bench: Bench) -> str:
    """The process that decodes stops, as on a disk that does not answer."""
    process = bench.start("--data.num-workers", 1, "--data.timeout-seconds", 5)
    bench.wait_for_step(process, bench.some_step())
    for worker in children(process.pid):
        os.kill(worker, signal.SIGSTOP)
    status, line = ended(process)
    return "not met" if status == 0 else told_in_a_line(status, line)


def children(parent: int) -> list[int]:
    """Processes that a process has started and that run Python."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            spawned = b"spawn_main" in (path.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and spawned:
            found.append(int(path.parent.name))
    return found


def clock_set_back(bench: Bench) -> str:
    """The clock jumps back by a day in the middle of the run."""
    jump = {"PYTHONPATH": str(CLOCK), "CLOCK_JUMPS_AFTER": str(bench.random.uniform(0, 9))}
    before = {name: os.environ.get(name) for name in jump}
    os.environ.update(jump)
    try:
        process = bench.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    status, line = ended(process)
    assert status == 0, line
    return "no effect"


@contextmanager
def mounted(size: str):
    """A small file system in memory; what `mount` refuses raises CalledProcessError."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def remount(folder: Path, options: str) -> int:
    arguments = ["mount", "-o", f"remount,{options}", folder]
    return subprocess.run(arguments, capture_output=True).returncode


def full_disk(bench: Bench) -> str:
    """The disk of the working folder fills up, at some size or other."""
    with mounted(f"{bench.random.randrange(64, 3000)}k") as disk:
        bench.workdir = disk / "run"
        status, line = ended(bench.start())
        outcome = "not met" if status == 0 else told_in_a_line(status, line)
        remount(disk, "size=1g")
        goes_on(bench)
        check_model(bench)
    return outcome


def read_only_disk(bench: Bench) -> str:
    """A run that was stopped finds its working folder read-only."""
    with mounted("1g") as disk:
        bench.workdir = disk / "run"
        process = bench.start()
        bench.wait_for_step(process, bench.some_step())
        process.send_signal(signal.SIGTERM)
        ended(process)
        assert remount(disk, "ro") == 0
        outcome = told_in_a_line(*ended(bench.start()))
        remount(disk, "rw")
        goes_on(bench)
        check_model(bench)
    return outcome


def killed_evaluation(bench: Bench) -> str:
    """SIGKILL of an evaluation at any moment; the same command gives the same bytes."""
    model = bench.expected.parent
    arguments = [sys.executable, ROOT / "eval.py", "--weights", model, "--latency-queries", 0]
    for part in ("database", "queries"):
        arguments += [f"--{part}", bench.town / "test" / part]
    results = []
    for name in ("whole", "again"):
        process = start([*arguments, "--output", bench.workdir / name])
        if name == "again":
            time.sleep(bench.random.uniform(0, bench.seconds))
            process.kill()
            process.communicate()
            assert not (bench.workdir / name / "results.json").exists() or process.returncode == 0
            process = start([*arguments, "--output", bench.workdir / name, "--overwrite"])
        status, line = ended(process)
        assert status == 0, line
        results.append((bench.workdir / name / "predictions.csv").read_bytes())
    assert results[0] == results[1]
    return "killed"


def check_model(bench: Bench) -> None:
    """The run's model is that of a run that nothing ailed."""
    found = bench.workdir / "model" / "model.safetensors"
    assert found.read_bytes() == bench.expected.read_bytes(), "another model"


FAULTS: dict[str, Callable[[Bench], str]] = {
    fault.__name__: fault
    for fault in (
        killed,
        killed_while_saving,
        asked_to_stop,
        one_of_two_killed,
        damaged_checkpoint,
        broken_image,
        stalled_worker,
        clock_set_back,
        full_disk,
        read_only_disk,
        killed_evaluation,
    )
}
