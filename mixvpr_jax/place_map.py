"""A robot's map: frames in the order in which they were seen, searched exactly at every moment."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from operator import index
from typing import Any, SupportsIndex

import numpy as np
import safetensors.numpy
from jaxtyping import Array
from scipy.ndimage import maximum_filter1d

from mixvpr_jax.checks import to_array
from mixvpr_jax.conversion import get_weights, weights_hash
from mixvpr_jax.conversion.formats import read_safetensors
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.search import check_descriptors, rounding_of_scores
from mixvpr_jax.export.engine import EngineModel
from mixvpr_jax.models.config import ConvAPConfig
from mixvpr_jax.models.vpr import VPRModel
from mixvpr_jax.storage import as_path, atomic_write, local_copy, reaching
from mixvpr_jax.writable import require_free

FORMAT, VERSION = "mixvpr_jax.PlaceMap", 1  # of files
BLOCK = 1024  # frames by which the map grows
ROWS_AT_ONCE = 256  # in float64
UNIT_TOLERANCE = 1e-2  # float16 moves a descriptor's length by less
LOCK = threading.RLock()  # of all maps, which can be copied so: `add` moves what others read
SETTINGS = ("skip_recent", "sequence_length", "threshold")


@dataclass(frozen=True)
class Match:
    """A frame of the map that may show where a query was taken.

    Attributes:
        frame: Its number in the map, from 0.
        label: What it was added with.
        similarity: Cosine similarity of both descriptors: their product, as they have unit length.
        score: Mean similarity of the sequence that ends here; `similarity` for sequences of 1.
        accepted: Whether the score reaches the map's threshold after a whole sequence of queries;
            None for a map without a threshold.
    """

    frame: int
    label: str
    similarity: float
    score: float
    accepted: bool | None


@dataclass
class _Query:
    """A query of the current sequence, and its similarity to the map's first frames, float32."""

    descriptor: np.ndarray
    known: int  # frames that the map had when it was asked
    similarities: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class PlaceMap:
    """Frames of one or more drives; a query is compared with all of them, whatever their number.

    With `sequence_length` L, a match is scored by the last L queries, as SeqSLAM does (Milford and
    Wyeth, 2012): for frame j the query of i steps ago counts with its best similarity to the frames
    j - 2i to j of the same drive, which allows any speed up to twice the map's, and stops.

    Scores are those of float64 arithmetic, and equal ones are ordered by frame. A frame of d values
    takes 4 d bytes of memory; a query reads all of them once. Calls from several threads are safe.

    Attributes:
        skip_recent: How many last frames of this drive are no matches, nor are the sequence's own.
        sequence_length: L.
        threshold: The least score to accept; docs/robot.md says how to find it.
        labels: Those of all frames.

    Examples:
        >>> import numpy as np
        >>> place_map = PlaceMap(threshold=0.9)
        >>> for number, descriptor in enumerate(np.eye(3, dtype=np.float32)):
        ...     _ = place_map.add(descriptor, f"frame {number}")
        >>> [match] = place_map.locate(np.array([0.0, 0.6, 0.8], np.float32))
        >>> match.label, round(match.score, 3), match.accepted
        ('frame 2', 0.8, False)
    """

    def __init__(
        self,
        model: VPRModel | EngineModel | None = None,
        *,
        skip_recent: int = 0,
        sequence_length: int = 1,
        threshold: float | None = None,
    ) -> None:
        """Begins an empty map; `model` describes its frames, which `load` checks.

        Raises:
            InputError: A value lies outside its range.
        """
        self.skip_recent, self.sequence_length = skip_recent, sequence_length
        self.threshold = threshold
        self._settings()
        self.labels: list[str] = []
        self._model = None if model is None else _identity(model)
        self._rows = np.empty((0, 0), np.float32)  # [n, d], and room for more
        self._drives = [0]  # the first frame of each
        self._queries: list[_Query] = []  # the newest first

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, descriptor: np.ndarray | Array, label: str = "") -> int:
        """Adds a frame to the current drive.

        Args:
            descriptor: [d] or [1, d], of unit length, as models give it; kept in float32.
            label: What a match tells of it: a file's name, a time, a position.

        Returns:
            The frame's number.

        Raises:
            InputError: A descriptor of another size or length, NaN or infinity.
        """
        with LOCK:
            row, at = self._checked(descriptor), len(self)
            if at == len(self._rows):
                if not self._rows.flags.owndata:  # but the file's that was loaded
                    self._rows = self._rows.copy()
                # Without a copy: malloc moves the pages of so large an array.
                self._rows.resize((at + BLOCK, len(row)), refcheck=False)
            self._rows[at] = row
            self.labels.append(str(label))
            return at

    def start_drive(self) -> None:
        """Tells that the next frame, or query, does not continue the last ones."""
        with LOCK:
            self._queries = []
            if self._drives[-1] != len(self):
                self._drives.append(len(self))

    def locate(self, descriptor: np.ndarray | Array, k: SupportsIndex = 1) -> list[Match]:
        """The k best matches of a query, which continues the sequence of those before.

        Args:
            descriptor: [d] or [1, d], of unit length.
            k: How many; fewer are given where fewer frames are old enough.

        Raises:
            InputError: A descriptor that does not fit, k below 1, or a setting that was changed to
                a value outside its range.
        """
        skip_recent, length, threshold = self._settings().values()
        if (k := index(k)) < 1:  # NumPy's small integers would overflow
            raise InputError(f"k: expected at least 1, found {k}")
        with LOCK:
            query = _Query(self._checked(descriptor), len(self))
            self._queries = [query, *self._queries][:length]
            own = self._queries[-1].known - 1 if skip_recent else len(self)
            old = min(len(self) - skip_recent, own)  # own: the sequence's first frame
            if not (count := max(old, self._drives[-1])):  # earlier drives are old
                return []
            for one in self._queries:  # frames may have been added since it was asked
                rows = self._rows[len(one.similarities) : len(self)]
                one.similarities = np.concatenate([one.similarities, rows @ one.descriptor])
            scores = self._mean_of_best([one.similarities[:count] for one in self._queries])
            least = np.partition(scores, -min(k, count))[-min(k, count)]
            slack = rounding_of_scores(query.descriptor[None], 1.0)[0]  # more than twice a mean's
            near = np.flatnonzero(scores >= least - slack)
            exact = self._in_float64(near, count)
            scores = self._mean_of_best(exact)
            whole = len(self._queries) == length
            return [
                Match(
                    frame,
                    self.labels[frame],
                    float(exact[0][frame]),
                    score := float(scores[frame]),
                    None if threshold is None else whole and score >= threshold,
                )
                for frame in near[np.lexsort((near, -scores[near]))][:k].tolist()
            ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the map to a .safetensors file, a path or gs://…; labels of 100 MB at most."""
        require_free([as_path(path)], "the map", overwrite=True)
        known = {"version": VERSION, "model": self._model, "labels": self.labels} | self._settings()
        try:  # `save_file` would hide the file from everybody but its owner
            with LOCK:
                drives = np.array(self._drives, np.int64)
                arrays = {"descriptors": self._rows[: len(self)], "drives": drives}
                content = safetensors.numpy.save(arrays, {FORMAT: json.dumps(known)})
        except safetensors.SafetensorError as error:  # the header is too large
            raise InputError(
                f"{path}: expected labels of 100 MB at most, found: {error}; give shorter ones"
            ) from None
        with atomic_write(as_path(path)) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: VPRModel | EngineModel | None = None
    ) -> PlaceMap:
        """Reads a map that `save` wrote; what is added to it is another drive.

        Args:
            path: The file.
            model: What describes the queries, which must be what described the map.

        Raises:
            InputError: No such file, a damaged one, one of a newer version, or another model.
        """
        file = as_path(path)
        with reaching(file):
            if not file.is_file():
                raise InputError(f"{file}: expected a map that was saved, found no such file")
        with local_copy(file) as copy:
            arrays = read_safetensors(copy)
            with safetensors.safe_open(copy, "numpy") as opened:
                text = (opened.metadata() or {}).get(FORMAT)
        if text is None:
            raise InputError(
                f"{file}: expected a map that was saved, found another safetensors file"
            )
        try:
            known = dict(**json.loads(text))
            if known["version"] > VERSION:
                raise InputError(f"version {known['version']}; update mixvpr-jax")
            found = cls(**{name: known[name] for name in SETTINGS})
            found.labels = list(map(str, known["labels"]))
            found._take(arrays["descriptors"], arrays["drives"])
            theirs = known["model"]
        except (InputError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{file}: expected a map of version {VERSION} as it was saved, found: {error}"
            ) from None
        ours = theirs if model is None else _identity(model)
        if theirs not in (None, ours):
            raise InputError(
                f"{file}: expected a map of the model {ours}, found one of {theirs}; load the "
                "model that described it"
            )
        found._model = ours
        return found

    def _take(self, descriptors: np.ndarray, drives: np.ndarray) -> None:
        """Fills an empty map that has its labels."""
        if descriptors.dtype != np.float32 or len(descriptors) != len(self):
            raise ValueError(
                f"{len(self)} labels, {len(descriptors)} descriptors of {descriptors.dtype}"
            )
        if len(self):
            _check_unit(descriptors)
            self._rows = descriptors
        starts = drives.tolist()
        if drives.dtype != np.int64 or starts != sorted({0, *starts}) or starts[-1] > len(self):
            raise ValueError(f"drives from {starts}")
        self._drives = starts
        self.start_drive()

    def _settings(self) -> dict[str, Any]:
        """As plain numbers; raises InputError for one that is out of range."""
        known: dict[str, Any] = dict.fromkeys(SETTINGS)
        for name, least in (("skip_recent", 0), ("sequence_length", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise InputError(f"{name}: expected a number from {least}, found {value!r:.40}")
            known[name] = int(value)
        if (threshold := self.threshold) is not None:
            if not (isinstance(threshold, Real) and abs(threshold) <= 1 + 3 * UNIT_TOLERANCE):
                raise InputError(f"threshold: expected a similarity, found {threshold!r:.40}")
            known["threshold"] = float(threshold)
        return known

    def _checked(self, descriptor: np.ndarray | Array) -> np.ndarray:
        """A descriptor as float32 [d] of its own memory."""
        row = to_array("descriptor: expected [d] or [1, d]", descriptor, np.float32).copy()
        row = row[0] if row.ndim == 2 and len(row) == 1 else row
        if row.ndim != 1:
            raise InputError(f"expected one descriptor, [d] or [1, d], found {list(row.shape)}")
        _check_unit(row[None])
        known = self._rows.shape[1] or (self._queries[0].descriptor.size if self._queries else 0)
        if known and len(row) != known:
            raise InputError(
                f"expected a descriptor of {known} values, as in the map, found {len(row)}; "
                "describe all frames by one model"
            )
        return row

    def _mean_of_best(self, similarities: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Scores [count], by the similarities [count] of the queries, the newest first."""
        count = len(similarities[0])
        total, ends = np.zeros(count), [*self._drives[1:], count]
        for age, found in enumerate(similarities):
            for start, end in zip(self._drives, ends, strict=True):
                own = found[start : min(end, count)]
                # The best of 2 * age + 1 frames, of which it is the last.
                window = {"size": 2 * age + 1, "origin": age, "mode": "constant", "cval": -np.inf}
                total[start : min(end, count)] += maximum_filter1d(own, **window)
        return total / len(similarities)

    def _in_float64(self, frames: np.ndarray, count: int) -> np.ndarray:
        """Similarities [L, count] of the queries, as far as these frames' scores need them."""
        rows = np.unique((frames[:, None] - np.arange(2 * len(self._queries) - 1)).clip(0))
        queries = np.array([query.descriptor for query in self._queries], np.float64)
        found = np.full((len(queries), count), -np.inf)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            found[:, some] = np.vecdot(self._rows[some].astype(np.float64), queries[:, None])
        return found


def _check_unit(rows: np.ndarray) -> None:
    """Raises InputError unless these are descriptors [n, d] of unit length."""
    check_descriptors("descriptor", rows)
    lengths = np.sqrt(np.vecdot(rows, rows))
    if (wrong := np.abs(lengths - 1) > UNIT_TOLERANCE).any():
        raise InputError(f"expected a descriptor of length 1, found {lengths[wrong][0]:.4g}")


def _identity(model: VPRModel | EngineModel) -> dict[str, Any]:
    """What models have in common whose descriptors may be compared."""
    is_engine = isinstance(model, EngineModel)
    weights = model.weights_hash if is_engine else weights_hash(get_weights(model))
    config = model.config
    known = {"weights_sha256": weights, "image_size": list(config.image_size)}
    # What else changes the descriptors of the same weights; earlier files do not say the usual.
    others: dict[str, tuple[Any, Any]] = {
        "interpolation": (config.interpolation, "bilinear"),
        "final_norm": (config.final_norm, True),
    }
    if isinstance(cells := config.aggregator, ConvAPConfig):
        others["cells"] = [cells.s1, cells.s2], [2, 2]
    return known | {name: found for name, (found, usual) in others.items() if found != usual}
