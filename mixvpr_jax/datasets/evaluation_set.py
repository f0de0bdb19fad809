"""What an evaluation measures on: images, ground truth, and the protocol that both follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class Published:
    """A result that somebody published for a protocol.

    Attributes:
        method: Whose, such as "MixVPR 4096".
        recall: k → percent.
        source: Where it stands.
    """

    method: str
    recall: Mapping[int, float]
    source: str


@dataclass(frozen=True)
class Protocol:
    """What is counted as found, over which images.

    Attributes:
        name: The one name it goes by, such as "msls-val"; no two protocols share one.
        ground_truth: Where it is from.
        positives: Which database images show a query's place, in words.
        num_database: How many database images it is defined over; None for any number.
        num_queries: How many queries.
        published: Results that it makes comparable.
        radius_m: The largest distance of a positive, in metres; None where frames are counted.
        frames: The largest difference of two frames' numbers; None where metres are.
    """

    name: str
    ground_truth: str
    positives: str
    num_database: int | None = None
    num_queries: int | None = None
    published: tuple[Published, ...] = ()
    radius_m: float | None = None
    frames: int | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """Database and query images with their ground truth; n database images, q queries.

    Attributes:
        protocol: What is counted.
        layout: How the images lie on this disk, in words.
        database: The n images that are searched.
        queries: The q images that are looked for.
        positives: For each query the ascending indices of database images that show its place,
            perhaps none; None without ground truth.
        database_utm: [n, 2] float64, east and north in metres on one plane; NaN of images in
            another zone of UTM than most; None where not known.
        queries_utm: [q, 2] float64, likewise.
        conditions: What recall is broken down by: a condition ("light", "city") → a label a query.
        is_subset: Whether images of the protocol are missing, as the user allowed.
        left_out: For each query the database images that are not to be found for it, as they are
            the query itself or frames beside it; empty where nothing is.
    """

    protocol: Protocol
    layout: str
    database: tuple[AnyPath, ...]
    queries: tuple[AnyPath, ...]
    positives: Sequence[np.ndarray] | None = None
    database_utm: np.ndarray | None = None
    queries_utm: np.ndarray | None = None
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_subset: bool = False
    left_out: Sequence[np.ndarray] = ()

    @property
    def num_own_queries(self) -> int:
        """How many queries are files of the database."""
        return sum(len(some) > 0 for some in self.left_out)

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.protocol.name

    def describe(self) -> list[str]:
        """What is measured, in a few lines."""
        protocol, subset = self.protocol, " (a subset)" if self.is_subset else ""
        lines = [
            f"{self.name}{subset}: {len(self.database):,} database images, "
            f"{len(self.queries):,} queries",
            f"ground truth: {protocol.ground_truth}; positives: {protocol.positives}",
        ]
        if self.num_own_queries:
            lines.append(
                f"{self.num_own_queries:,} of {len(self.queries):,} queries are files of the "
                "database: each is left out of its own neighbours"
            )
        for row in () if self.is_subset else protocol.published:
            recall = ", ".join(f"R@{k}: {percent:.1f}" for k, percent in row.recall.items())
            lines.append(f"published, {row.method}: {recall} ({row.source})")
        return lines

    def select(self, database: np.ndarray, queries: np.ndarray) -> EvaluationSet:
        """Only the images where `database` [n] bool and `queries` [q] bool hold."""
        place = np.cumsum(database) - 1  # where a kept database image goes

        def kept_indices(lists: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [place[found[database[found]]] for found in _kept(lists, queries)]

        positives = None if self.positives is None else kept_indices(self.positives)
        return replace(
            self,
            database=_kept(self.database, database),
            queries=_kept(self.queries, queries),
            positives=positives,
            database_utm=None if self.database_utm is None else self.database_utm[database],
            queries_utm=None if self.queries_utm is None else self.queries_utm[queries],
            conditions={name: _kept(labels, queries) for name, labels in self.conditions.items()},
            left_out=kept_indices(self.left_out) if len(self.left_out) else (),
        )


def _kept(items: Sequence, kept: np.ndarray) -> tuple:
    return tuple(item for item, keep in zip(items, kept, strict=True) if keep)


@dataclass(frozen=True)
class Found:
    """A benchmark as its lists have it, and which of the images are there.

    Attributes:
        whole: With every image listed, missing ones too.
        database_present: [n] bool.
        queries_present: [q] bool.
    """

    whole: EvaluationSet
    database_present: np.ndarray
    queries_present: np.ndarray

    @classmethod
    def complete(cls, whole: EvaluationSet) -> Found:
        """What was listed from the disk: nothing can be missing."""
        return cls(whole, np.ones(len(whole.database), bool), np.ones(len(whole.queries), bool))

    def missing(self) -> list[AnyPath]:
        """The images that are not there, database first."""
        images = (*self.whole.database, *self.whole.queries)
        present = np.concatenate([self.database_present, self.queries_present])
        return [path for path, there in zip(images, present, strict=True) if not there]
