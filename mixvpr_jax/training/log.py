"""metrics.jsonl, TensorBoard events, curves, traces and the progress bar of a run."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from mixvpr_jax.distributed import is_main_process
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, OutOfReach, atomic_write, put_file, reaching
from mixvpr_jax.training.step import Metrics

logger = logging.getLogger(__name__)


@contextmanager
def _hidden(module: str) -> Generator[None]:
    """Lets `import module` raise ImportError, unless it has been imported before."""
    found = sys.modules.setdefault(module, cast(Any, None))
    try:
        yield
    finally:
        if found is None:
            del sys.modules[module]


# tensorboardX annotates with torch's types, and knows a way to a store, which `Log` has itself;
# importing the two takes two seconds and half a second.
with _hidden("torch"), _hidden("google.cloud.storage"):
    from tensorboardX import SummaryWriter

Entry = dict[str, Any]


def read_log(path: AnyPath) -> list[Entry]:
    """The entries of a metrics.jsonl, without a last line that a kill cut short."""
    with reaching(path):
        if not path.exists():
            return []
        lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
            is_step = type(entries[-1]["step"]) is int
            numbers = (x for x in entries[-1].values() if not isinstance(x, dict))
            if not (is_step and all(map(math.isfinite, numbers))):
                raise ValueError(line)
        except (ValueError, KeyError, TypeError, OverflowError):
            text = line[:80].decode(errors="replace")
            raise InputError(
                f"{path}: line {number}: expected an object with a step and finite numbers, found "
                f"{text!r}"
            ) from None
    return entries


class Log:
    """Writes entries to metrics.jsonl and TensorBoard and shows a progress bar.

    Only process 0 writes; the others just hold the entries.
    """

    def __init__(self, workdir: AnyPath, step: int, total_steps: int) -> None:
        """Opens the log of a run that resumes at `step`; drops entries of later steps."""
        entries = read_log(workdir / "metrics.jsonl")
        self.entries = [entry for entry in entries if entry["step"] <= step]
        self._mirror, self._file, self._board = None, None, None
        if is_main_process():
            self._mirror = Mirror(workdir)
            path = self._mirror.folder / "metrics.jsonl"
            with atomic_write(path) as temporary:
                temporary.write_text("".join(map(_line, self.entries)), encoding="utf-8")
            self._file = path.open("a", encoding="utf-8")
            # max_queue=0 is no bound: after a full disk killed its thread, a bounded one blocks.
            self._board = SummaryWriter(str(path.parent), purge_step=step + 1, max_queue=0)
        hidden = None if is_main_process() else True  # None: a bar on terminals only
        self._bar = tqdm(total=total_steps, initial=step, unit=" steps", disable=hidden)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds an entry, on a disk at once, in an object store with the next `keep`."""
        entry = {"step": step, **values}
        self.entries.append(entry)
        if self._mirror is None or self._file is None or self._board is None:
            return
        self._file.write(_line(entry))
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._mirror.copy_if_due()

    def keep(self) -> None:
        """Makes sure that the workdir holds all entries; raises OutOfReach if its store is away."""
        if self._mirror is not None:
            self._mirror.copy()

    def advance(self, shown: Mapping[str, str]) -> None:
        """Moves the bar by a step."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def describe(self, doing: str) -> None:
        """Labels the bar."""
        self._bar.set_description(doing)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; if the store is unreachable, entries not yet copied are dropped."""
        if self._mirror is not None and kind is not None and issubclass(kind, OutOfReach):
            self._mirror.abandon()
        self.close()

    def close(self) -> None:
        """Closes files and bar."""
        self._bar.close()
        for opened in filter(None, (self._board, self._file, self._mirror)):
            opened.close()


def values_of(entries: Iterable[Entry], name: str) -> dict[int, float]:
    """Step → value, for the entries that hold this metric."""
    return {entry["step"]: entry[name] for entry in entries if name in entry}


def _line(entry: Entry) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"


STYLES = {"1": "-", "5": "--", "10": ":"}  # of those k that are drawn


def draw_curves(entries: Sequence[Entry], path: AnyPath) -> None:
    """Draws loss, batch accuracy and the recalls of each set over the steps, as a PNG."""
    names = {name for entry in entries for name in entry if "/recall@" in name}
    recalls = sorted((name for name in names if name.rpartition("@")[2] in STYLES), key=_rank)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, *right = figure.subplots(1, 2 if recalls else 1, squeeze=False)[0]
    sides = (left, "loss", "tab:red"), (left.twinx(), "batch_accuracy", "tab:blue")
    for axes, metric, color in sides:
        values = values_of(entries, metric)
        axes.plot(list(values), list(values.values()), color=color, linewidth=1)
        axes.set_ylabel(metric.replace("_", " "), color=color)
    left.set(xlabel="step", title="Training")
    left.grid(alpha=0.25)
    sides[1][0].set_ylim(0, 1.02)
    sets = sorted({name.split("/")[0] for name in recalls})
    for axes in right:  # a colour a set, a line style a k
        for name in recalls:
            values, (dataset, k) = values_of(entries, name), _rank(name)
            (line,) = axes.plot(list(values), list(values.values()), marker=".")
            label = f"R@{k} {dataset}".replace("$", r"\$")  # no formula; a first "_" would hide it
            line.set(color=f"C{sets.index(dataset)}", linestyle=STYLES[str(k)], label=label)
        axes.set(xlabel="step", ylabel="recall (%)", ylim=(0, 102), title="Validation")
        axes.legend(frameon=False, loc="lower right", ncols=len(sets))
        axes.grid(alpha=0.25)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _rank(name: str) -> tuple[str, int]:
    dataset, _, k = name.partition("/recall@")
    return dataset, int(k)


SECONDS = 30.0  # between copies of a growing file


class Mirror:
    """A local folder to write to: the run's own, or one that is copied to its object store.

    Objects cannot be appended to, so growing files are copied whole now and then.
    """

    def __init__(self, target: AnyPath) -> None:
        self._target = target
        own = isinstance(target, Path)
        self.folder = target if own else Path(tempfile.mkdtemp(prefix="mixvpr_jax."))
        self._lost = False
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def copy_if_due(self) -> None:
        """Copies what is new, at most every `SECONDS`."""
        if time.monotonic() - self._last >= SECONDS:
            self.copy()

    def copy(self) -> None:
        """Copies what is new to the run's folder; raises OutOfReach if the store is away."""
        if self.folder == self._target:
            return
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            state = file.stat()
            stamp = state.st_size, state.st_mtime_ns
            if self._copied.get(file) != stamp:
                self._lost = True
                put_file(file, self._target / file.relative_to(self.folder).as_posix())
                self._lost = False
                self._copied[file] = stamp
        self._last = time.monotonic()

    def abandon(self) -> None:
        """Lets `close` copy nothing, which would wait for a store that is away."""
        self._lost = True

    def close(self) -> None:
        """Copies what is new, unless that failed before, and removes the temporary folder."""
        if self.folder == self._target:
            return
        try:
            if not self._lost:
                self.copy()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Monitor:
    """Logs each step's metrics once the next has started, which keeps the device busy.

    On a CPU, where a step runs in the thread that calls it, they are ready at once.
    """

    def __init__(self, log: Log, rates: np.ndarray, log_every_steps: int) -> None:
        """Starts the clock; `rates` [total_steps] holds the learning rate of each step."""
        self._log, self._rates, self._log_every_steps = log, rates, log_every_steps
        self._waiting: deque[tuple[int, Metrics]] = deque()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Restarts the measurement of images per second."""
        self._images, self._since = 0, time.perf_counter()

    def add(self, step: int, metrics: Metrics) -> None:
        """Queues a step's metrics, and reads the earlier steps' and, if ready, its own."""
        self._waiting.append((step, metrics))
        self.drain(keep=0 if _are_ready(metrics) else 1)

    def drain(self, keep: int = 0) -> None:
        """Reads all queued metrics but the last `keep`."""
        while len(self._waiting) > keep:
            self._read()

    def _read(self) -> None:
        step, metrics = self._waiting.popleft()
        values = {name: float(value) for name, value in metrics.items()}
        self._check_finite(step, values)
        self._images += round(values.pop("images"))
        rate = float(self._rates[step - 1])
        speed = self._images / max(time.perf_counter() - self._since, 1e-9)
        self._log.advance(
            {
                "loss": f"{values['loss']:.3f}",
                "accuracy": f"{values['batch_accuracy']:.2f}",
                "lr": f"{rate:.2e}",
                "images/s": f"{speed:.0f}",
            }
        )
        if step % self._log_every_steps == 0:
            self._log.write(step, {**values, "learning_rate": rate, "images_per_second": speed})
            self.restart_clock()

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if not broken:
            return
        steps = [step] + [
            later
            for later, metrics in self._waiting
            if not all(math.isfinite(float(value)) for value in metrics.values())
        ]
        raise InputError(
            f"step {', '.join(map(str, steps))}: {', '.join(broken)} not finite, at learning rate "
            f"{self._rates[step - 1]:.3g}; no such state was saved: start again in a new folder "
            "with a lower --optimizer.learning-rate"
        )


def _are_ready(metrics: Metrics) -> bool:
    arrays: list[Any] = list(metrics.values())  # JAX's type leaves `is_ready` out
    return all(array.is_ready() for array in arrays)


def steps_to_profile(text: str) -> range:
    """The steps from FIRST to LAST of "FIRST:LAST"; raises InputError for another text."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    steps = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    if not steps or steps.start < 1:
        raise InputError(f"profile_steps: expected FIRST:LAST, such as 20:25, found {text!r}")
    return steps


class Profiler:
    """Traces steps; each process writes what its own devices and threads did."""

    def __init__(self, folder: AnyPath, steps: range, left: range) -> None:
        """Traces `steps`, perhaps none, of those `left`, into plugins/profile/… of `folder`."""
        self._folder, self._mirror = folder, None
        self._steps = range(max(steps.start, left.start), min(steps.stop, left.stop))
        if steps and not self._steps:
            logger.warning(
                "note: profile_steps: expected steps after %d, up to %d, found %d to %d; nothing "
                "is traced",
                *(left.start - 1, left.stop - 1, steps[0], steps[-1]),
            )

    def before(self, step: int) -> None:
        """Starts the trace if this is its first step."""
        if step in self._steps and self._mirror is None:
            self._mirror = Mirror(self._folder)
            jax.profiler.start_trace(self._mirror.folder)

    def after(self, step: int, result: Any) -> None:
        """Ends the trace after its last step, once the step's result is there."""
        if self._mirror is not None and step + 1 not in self._steps:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still on."""
        if self._mirror is not None:
            jax.profiler.stop_trace()
            self._mirror.close()
            self._mirror = None
