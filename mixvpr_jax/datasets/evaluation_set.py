"""What an evaluation measures on: images, their ground truth and its protocol."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixvpr_jax.datasets.positions import on_one_plane, place, positives_of
from mixvpr_jax.datasets.protocols import Protocol
from mixvpr_jax.listing import Located
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class EvaluationSet:
    """Database and query images with their ground truth; n database images, q queries.

    Attributes:
        protocol: What is counted.
        layout: How the images lie on this disk, in words.
        database: The n images that are searched.
        queries: The q images that are searched for.
        positives: For each query the ascending indices of database images that show its place,
            perhaps none; None without ground truth.
        database_utm: [n, 2] float64, east and north in metres on one plane; NaN of images in
            another zone of UTM than most; None where not known.
        queries_utm: [q, 2] float64, likewise.
        conditions: What recall is broken down by: a condition ("light", "city") → a label a query.
        is_subset: Whether images of the protocol are missing, as the user allowed.
        left_out: For each query the database images to leave out of its neighbours: the query
            itself and adjacent frames. Empty where nothing is left out.
        present: [n] and [q] bool, which images are there; None if all are.
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
    present: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(
        cls, protocol: Protocol, layout: str, database: Located, queries: Located, **known: Any
    ) -> EvaluationSet:
        """The images that were listed, some of which may be missing, and what is known of them."""
        present = database.present, queries.present
        return cls(protocol, layout, database.paths, queries.paths, present=present, **known)

    def with_positions(
        self, source: str, utm: Sequence[np.ndarray], zones: Sequence[np.ndarray]
    ) -> EvaluationSet:
        """Adds the positions of all images and, if unknown, the positives within the radius."""
        database, queries = place(source, utm, zones)
        positives, radius_m = self.positives, self.protocol.radius_m
        if positives is None and radius_m is not None:
            positives = positives_of(queries, database, radius_m)
        database_utm, queries_utm = on_one_plane(database, queries)
        return replace(
            self, positives=positives, database_utm=database_utm, queries_utm=queries_utm
        )

    def checksum(self) -> str:
        """A checksum of the names of the images and of the positives."""
        names = ["\n".join(path.name for path in paths) for paths in (self.database, self.queries)]
        found = zlib.crc32("\n\n".join(names).encode(errors="surrogateescape"))
        for positives in self.positives or ():
            for numbers in (len(positives), positives):
                found = zlib.crc32(np.asarray(numbers, "<i8").tobytes(), found)
        return f"{found:08x}"

    @property
    def is_absent(self) -> bool:
        """Whether no database image is there."""
        return self.present is not None and not self.present[0].any()

    def missing(self) -> list[AnyPath]:
        """The images that are not there, database first."""
        if self.present is None:
            return []
        return list(_kept((*self.database, *self.queries), ~np.concatenate(self.present)))

    @property
    def num_own_queries(self) -> int:
        """How many queries are files of the database."""
        return sum(len(some) > 0 for some in self.left_out)

    def describe(self) -> list[str]:
        """What is measured, in a few lines."""
        protocol, subset = self.protocol, " (a subset)" if self.is_subset else ""
        lines = [
            f"{protocol.name}{subset}: {len(self.database):,} database images, "
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
        new_index = np.cumsum(database) - 1  # of a kept database image

        def kept_indices(lists: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [new_index[found[database[found]]] for found in _kept(lists, queries)]

        return replace(
            self,
            database=_kept(self.database, database),
            queries=_kept(self.queries, queries),
            positives=None if self.positives is None else kept_indices(self.positives),
            database_utm=None if self.database_utm is None else self.database_utm[database],
            queries_utm=None if self.queries_utm is None else self.queries_utm[queries],
            conditions={name: _kept(labels, queries) for name, labels in self.conditions.items()},
            left_out=kept_indices(self.left_out) if len(self.left_out) else (),
            present=None,
        )


def _kept(items: Sequence, kept: np.ndarray) -> tuple:
    return tuple(item for item, keep in zip(items, kept, strict=True) if keep)
