"""Injects faults into a run: how it ends, and that the same command trains the same model."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from runs import ROOT, command, finish, start

PATIENCE_SECONDS = 240  # for what must not hang, on a machine that may be busy


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
        devices: How many fake ones a process has.
    """

    town: Path
    workdir: Path
    random: Random
    seconds: float
    expected: Path = Path()
    images: Path | None = None
    devices: int = 2

    def command(self, *options: object) -> list[object]:
        """The command that trains, on a copy of the images where the fault needs one."""
        more = ("--data.root", self.images) if self.images else ()
        return [*command(self.town, self.workdir, *options), *more]

    def start(self, *options: object, **settings: object) -> subprocess.Popen[str]:
        return start(self.command(*options), self.devices, **settings)

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

    def wait_for_save(self, process: subprocess.Popen[str]) -> None:
        """Until a checkpoint, the first or the second, is being written."""
        until = time.monotonic() + PATIENCE_SECONDS
        wanted = self.random.randrange(1, 3)
        seen: set[str] = set()
        while process.poll() is None and time.monotonic() < until and len(seen) < wanted:
            seen |= {path.name for path in (self.workdir / "checkpoints").glob("*tmp*")}
            time.sleep(0.0005)
        time.sleep(self.random.uniform(0, 0.02))


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


@contextmanager
def environment(**values: object) -> Iterator[None]:
    """What processes that are started meanwhile find in their environment."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def evaluation(bench: Bench) -> list[object]:
    """The command that evaluates the model of a run that nothing ailed."""
    arguments = [sys.executable, ROOT / "eval.py", "--weights", bench.expected.parent]
    for part in ("database", "queries"):
        arguments += [f"--{part}", bench.town / "test" / part]
    return [*arguments, "--latency-queries", 0]


def check_model(bench: Bench) -> None:
    """The run's model is that of a run that nothing ailed."""
    found = bench.workdir / "model" / "model.safetensors"
    assert found.read_bytes() == bench.expected.read_bytes(), "another model"
