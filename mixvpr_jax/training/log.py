"""What a run tells: metrics.jsonl, TensorBoard events and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from mixvpr_jax.errors import InputError
from mixvpr_jax.files import beside
from mixvpr_jax.processes import is_first
from mixvpr_jax.stores import AnyPath, reaching
from mixvpr_jax.training.mirror import Mirror

Entry = dict[str, Any]


def read_log(path: AnyPath) -> list[Entry]:
    """The entries of a metrics.jsonl; a last line cut short by a kill is left out.

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
    """Writes entries to metrics.jsonl and TensorBoard, and shows them beside a progress bar.

    Of several processes the first does; the others only know what the entries are.
    """

    def __init__(self, workdir: AnyPath, step: int, total_steps: int) -> None:
        """Opens a run's log at a step.

        Args:
            workdir: The run's folder.
            step: Where the run goes on: what an earlier process told of later steps is forgotten.
            total_steps: Steps of the whole run.
        """
        entries = read_log(workdir / "metrics.jsonl")
        self.entries = [entry for entry in entries if entry["step"] <= step]
        self._mirror, self._file, self._board = None, None, None
        if is_first():
            self._mirror = Mirror(workdir)
            path = self._mirror.folder / "metrics.jsonl"
            with beside(path) as temporary:
                temporary.write_text("".join(map(_line, self.entries)))
            self._file = path.open("a")
            # max_queue=0: no bound. Once its thread died of a full disk, a full queue would block.
            self._board = SummaryWriter(str(path.parent), purge_step=step + 1, max_queue=0)
        # disable=None: a bar on terminals alone.
        hidden = None if is_first() else True
        self._bar = tqdm(total=total_steps, initial=step, unit=" steps", disable=hidden)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds an entry: on a disk, it is in the file when this returns; see also `keep`."""
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
        """Makes sure that all entries are in the run's folder, wherever that is.

        Raises:
            OutOfReach: It is in an object store that cannot be reached.
        """
        if self._mirror is not None:
            self._mirror.copy()

    def advance(self, shown: Mapping[str, str]) -> None:
        """Moves the bar by a step."""
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def describe(self, doing: str) -> None:
        """Says before the bar what is being done."""
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
    """The sets that the run has measured before: all of their images could be read."""
    entries = read_log(workdir / "metrics.jsonl")
    return {name.rpartition("/")[0] for entry in entries for name in entry if "/" in name}
