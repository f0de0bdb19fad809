"""metrics.jsonl, TensorBoard events, curves and the progress bar of a run."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter
from tqdm import tqdm

from mixvpr_jax.distributed import is_main_process
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath, atomic_write, put_file, reaching

Entry = dict[str, Any]


def read_log(path: AnyPath) -> list[Entry]:
    """The entries of a metrics.jsonl, without a last line that a kill cut short.

    Raises:
        InputError: A line that is no entry.
    """
    with reaching(path):
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(json.loads(line))
            entries[-1]["step"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: line {number}: expected an object with a step, found {line[:80]!r}"
            ) from None
    return entries


class Log:
    """Writes entries to metrics.jsonl and TensorBoard and shows a progress bar.

    Only process 0 writes; the others just hold the entries.
    """

    def __init__(self, workdir: AnyPath, step: int, total_steps: int) -> None:
        """Opens a run's log at a step.

        Args:
            workdir: Run directory.
            step: Where the run resumes; entries of later steps are dropped.
            total_steps: Steps of the whole run.
        """
        entries = read_log(workdir / "metrics.jsonl")
        self.entries = [entry for entry in entries if entry["step"] <= step]
        self._mirror, self._file, self._board = None, None, None
        if is_main_process():
            self._mirror = Mirror(workdir)
            path = self._mirror.folder / "metrics.jsonl"
            with atomic_write(path) as temporary:
                temporary.write_text("".join(map(_line, self.entries)))
            self._file = path.open("a")
            # max_queue=0 is no bound: after a full disk killed its thread, a bounded one blocks.
            self._board = SummaryWriter(str(path.parent), purge_step=step + 1, max_queue=0)
        hidden = None if is_main_process() else True  # None: a bar on terminals only
        self._bar = tqdm(total=total_steps, initial=step, unit=" steps", disable=hidden)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds an entry, on a disk at once, in an object store with the next `keep`."""
        entry = {"step": step, **values}
        self.entries.append(entry)
        if self._mirror is None or self._file is None or self._board is None:
            return
        self._file.write(_line(entry))
        self._file.flush()
        for name, value in values.items():
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


def measured_sets(workdir: AnyPath) -> set[str]:
    """The sets that the run has measured, whose images could thus all be read."""
    entries = read_log(workdir / "metrics.jsonl")
    return {name.rpartition("/")[0] for entry in entries for name in entry if "/" in name}


STYLES = {1: "-", 5: "--", 10: ":"}


def draw_curves(entries: Sequence[Entry], path: AnyPath) -> None:
    """Draws loss, batch accuracy and the recalls of each set over the steps, as a PNG."""
    recalls = sorted({name for entry in entries for name in entry if "/recall@" in name}, key=_rank)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, *right = figure.subplots(1, 2 if recalls else 1, squeeze=False)[0]
    _draw_training(left, entries)
    for axes in right:
        _draw_recalls(axes, entries, recalls)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_recalls(axes: Axes, entries: Sequence[Entry], names: Sequence[str]) -> None:
    """A colour a set, a line style a k."""
    sets = sorted({name.split("/")[0] for name in names})
    for name in names:
        values, (dataset, k) = values_of(entries, name), _rank(name)
        (line,) = axes.plot(list(values), list(values.values()), marker=".")
        line.set(color=f"C{sets.index(dataset)}", linestyle=STYLES[k], label=f"{dataset} R@{k}")
    axes.set(xlabel="step", ylabel="recall (%)", ylim=(0, 102), title="Validation")
    axes.legend(frameon=False, loc="lower right", ncols=len(sets))
    axes.grid(alpha=0.25)


def _draw_training(axes: Axes, entries: Sequence[Entry]) -> None:
    loss, accuracy = values_of(entries, "loss"), values_of(entries, "batch_accuracy")
    axes.plot(list(loss), list(loss.values()), color="tab:red", linewidth=1)
    axes.set(xlabel="step", title="Training")
    axes.set_ylabel("loss", color="tab:red")
    axes.grid(alpha=0.25)
    twin = axes.twinx()
    twin.plot(list(accuracy), list(accuracy.values()), color="tab:blue", linewidth=1)
    twin.set_ylabel("batch accuracy", color="tab:blue")
    twin.set_ylim(0, 1.02)


def _rank(name: str) -> tuple[str, int]:
    dataset, _, k = name.partition("/recall@")
    return dataset, int(k)


SECONDS = 30.0  # between copies of a growing file


class Mirror:
    """A local folder: the run's own, or one that is copied to the run's object store.

    Objects cannot be appended to, so growing files are copied whole now and then.

    Attributes:
        folder: Where to write.
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

    def close(self) -> None:
        """Copies what is new, unless that failed before, and removes the temporary folder."""
        if self.folder == self._target:
            return
        try:
            if not self._lost:
                self.copy()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
