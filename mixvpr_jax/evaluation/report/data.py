"""What a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class OtherRun:
    """Another run over the same photos, to compare with; q queries, any number k of neighbours.

    Attributes:
        title: What it goes by in the page, such as the other model's name.
        recall: k → recall@k in percent; None without ground truth.
        predictions: [q, k] int, indices into the report's `database_paths`, nearest first.
        right: [q, k] bool, which of them are true positives; None without ground truth.
    """

    title: str
    recall: Mapping[int, float] | None
    predictions: np.ndarray
    right: np.ndarray | None


@dataclass(frozen=True)
class ReportData:
    """One evaluation, as the report shows it; n database photos, q queries, k neighbours each.

    Whatever is optional and missing leaves no gap in the page.

    Attributes:
        title: The headline, such as "resnet50_4096 on city".
        facts: A small table in its order: model, dataset, protocol, images, date.
        database_paths: The n database photos, in descriptor order.
        query_paths: The q query photos, in descriptor order.
        predictions: [q, k] int, indices into `database_paths`, nearest first.
        distances: [q, k] float, between descriptors.
        positives: Per query, the database indices of its true positives; None without ground
            truth.
        recall: k → recall@k in percent; None without ground truth.
        intervals: k → the low and the high end of its 95 % interval, in percent.
        curve: recall@N in percent for N = 1, 2, ...
        published: Results of the same protocol: whose, k → percent, and where it stands.
        is_subset: Whether images of the protocol are missing, so that nothing is comparable.
        conditions: A condition ("light") → a label ("night") → the number of its queries and
            their k → recall@k in percent.
        labels: A condition → the label of each query, by which the list can be narrowed.
        latency: A stage ("preprocessing", "model", "search") → median and 95th percentile of
            the milliseconds that a query takes.
        database_utm: [n, 2] east and north in metres; NaN where not known.
        query_utm: [q, 2] likewise.
        best_positive: Of each query the nearest true positive over the whole database:
            database index [q] (-1 without any), distance [q], rank [q] (from 1).
        saliency: For some queries, which cells move the descriptor: maps [h, w] in 0..1 of the
            query and of its first neighbour.
        other: Another run to compare with.
    """

    title: str
    facts: Mapping[str, str]
    database_paths: Sequence[AnyPath]
    query_paths: Sequence[AnyPath]
    predictions: np.ndarray
    distances: np.ndarray
    positives: Sequence[np.ndarray] | None = None
    recall: Mapping[int, float] | None = None
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    curve: Sequence[float] = ()
    published: Sequence[tuple[str, Mapping[int, float], str]] = ()
    is_subset: bool = False
    conditions: Mapping[str, Mapping[str, tuple[int, Mapping[int, float]]]] = field(
        default_factory=dict
    )
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    latency: Mapping[str, tuple[float, float]] | None = None
    database_utm: np.ndarray | None = None
    query_utm: np.ndarray | None = None
    best_positive: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    saliency: Mapping[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    other: OtherRun | None = None

    def check(self) -> None:
        """Looks whether the parts fit together.

        Raises:
            ValueError: They do not; the message names the part.
        """
        queries, shape = len(self.query_paths), np.shape(self.predictions)
        if len(shape) != 2 or shape[0] != queries:
            raise ValueError(f"predictions: expected [{queries}, k], found {shape}")
        _expect("distances", np.shape(self.distances), shape)
        if self.positives is not None:
            _expect_count("positives", self.positives, queries)
        for name, labels in self.labels.items():
            _expect_count(f"labels of {name}", labels, queries)
        if (self.database_utm is None) != (self.query_utm is None):
            raise ValueError("database_utm and query_utm: expected both or neither")
        if self.database_utm is not None and self.query_utm is not None:
            _expect("database_utm", self.database_utm.shape, (len(self.database_paths), 2))
            _expect("query_utm", self.query_utm.shape, (queries, 2))
        for part in self.best_positive or ():
            _expect("best_positive", np.shape(part), (queries,))
        for query, maps in self.saliency.items():
            _expect(f"saliency of query {query}", maps[1].shape, maps[0].shape)
        self._check_indices()
        self._check_other()

    def _check_indices(self) -> None:
        # A negative index would quietly show another photo.
        count = len(self.database_paths)
        _expect_indices("predictions", self.predictions, count)
        if self.best_positive is not None:
            found = self.best_positive[0]
            _expect_indices("best_positive", found[found != -1], count)
        _expect_indices("saliency", np.array(list(self.saliency), int), len(self.query_paths))

    def _check_other(self) -> None:
        other = self.other
        if other is None:
            return
        shape, queries = np.shape(other.predictions), len(self.query_paths)
        if len(shape) != 2 or shape[0] != queries:
            raise ValueError(
                f"predictions of the other run: expected [{queries}, k], found {shape}"
            )
        if other.right is not None:
            _expect("right of the other run", other.right.shape, shape)
        count = len(self.database_paths)
        _expect_indices("predictions of the other run", other.predictions, count)

    def first(self, queries: int) -> ReportData:
        """The same of the first queries alone; figures of the whole evaluation stay."""
        return replace(
            self,
            query_paths=self.query_paths[:queries],
            predictions=self.predictions[:queries],
            distances=self.distances[:queries],
            positives=None if self.positives is None else self.positives[:queries],
            labels={name: labels[:queries] for name, labels in self.labels.items()},
            query_utm=None if self.query_utm is None else self.query_utm[:queries],
            best_positive=self.best_positive and _first(self.best_positive, queries),
            saliency={query: maps for query, maps in self.saliency.items() if query < queries},
            other=self.other and self._first_of_other(self.other, queries),
        )

    @staticmethod
    def _first_of_other(other: OtherRun, queries: int) -> OtherRun:
        right = None if other.right is None else other.right[:queries]
        return replace(other, predictions=other.predictions[:queries], right=right)


def _first(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return parts[0][:count], parts[1][:count], parts[2][:count]


def _expect(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise ValueError(f"{name}: expected {tuple(expected)}, found {tuple(found)}")


def _expect_count(name: str, found: Sequence[object], expected: int) -> None:
    if len(found) != expected:
        raise ValueError(f"{name}: expected {expected}, found {len(found)}")


def _expect_indices(name: str, indices: np.ndarray, count: int) -> None:
    indices = np.asarray(indices)
    if indices.size and not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(
            f"{name}: expected indices 0 to {count - 1}, found {indices.min()} to {indices.max()}"
        )
