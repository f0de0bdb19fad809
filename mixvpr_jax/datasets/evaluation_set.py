"""What an evaluation measures on: images, ground truth, and the protocol that both follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mixvpr_jax.listing import Located
from mixvpr_jax.storage import AnyPath


@dataclass(frozen=True)
class Published:
    """A method's published result: recall by k, in percent, and its source."""

    method: str
    recall: Mapping[int, float]
    source: str


@dataclass(frozen=True)
class Protocol:
    """What counts as found, over which images.

    Attributes:
        name: Such as "msls-val"; no two protocols share one.
        ground_truth: Where it is from.
        positives: Which database images show a query's place, in words.
        num_database: How many database images it is defined over; None for any number.
        num_queries: How many queries, likewise.
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

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """How many database images and queries it is defined over."""
        return self.num_database, self.num_queries


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

    @property
    def is_absent(self) -> bool:
        """Whether no database image is there."""
        return self.present is not None and not self.present[0].any()

    def missing(self) -> list[AnyPath]:
        """The images that are not there, database first."""
        if self.present is None:
            return []
        there = np.concatenate(self.present).tolist()
        images = (*self.database, *self.queries)
        return [path for path, is_there in zip(images, there, strict=True) if not is_there]

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
            present=None,
        )


def _kept(items: Sequence, kept: np.ndarray) -> tuple:
    return tuple(item for item, keep in zip(items, kept, strict=True) if keep)


# The benchmarks -----------------------------------------------------------------------------------
# Where a number of images is None, no source was found that says it: the lists are followed.

_WITHIN = "database images within 25 m"


def _paper(recall_at_1: float) -> Published:
    source = "Ali-bey, Chaib-draa, Giguère: MixVPR, WACV 2023"
    return Published("MixVPR 4096, paper", {1: recall_at_1}, source)


def _released(*recalls: tuple[float, float, float]) -> tuple[Published, ...]:
    """R@1, R@5 and R@10 of the released weights: 4096, 512, 128."""
    return tuple(
        Published(f"MixVPR {size}", {1: at_1, 5: at_5, 10: at_10}, "github.com/amaralibey/MixVPR")
        for size, (at_1, at_5, at_10) in zip((4096, 512, 128), recalls, strict=True)
    )


def _struct(
    name: str, database: int | None, queries: int | None, *published: Published
) -> Protocol:
    source = f"dbStruct of {name.replace('-', '_')}.mat, by the authors of NetVLAD"
    return Protocol(name, source, _WITHIN, database, queries, published, radius_m=25.0)


def _lists(name: str, stem: str, database: int, queries: int, *published: Published) -> Protocol:
    source = f"{stem}_gt.npy, of GSV-Cities' authors"
    return Protocol(name, source, "as listed for each query", database, queries, published)


_ALL = (
    _struct("pitts30k-val", 10_000, 7_608),
    _struct(
        "pitts30k-test",
        10_000,
        6_816,
        *_released((91.6, 95.5, 96.4), (90.7, 95.5, 96.3), (87.8, 94.3, 95.7)),
    ),
    _struct("pitts250k-val", None, None),
    _struct(
        "pitts250k-test",
        83_952,
        8_280,
        *_released((94.3, 98.2, 98.9), (93.2, 97.9, 98.6), (88.7, 95.8, 97.4)),
        _paper(94.6),
    ),
    Protocol(
        "msls-val",
        "msls_val_pIdx.npy, of GSV-Cities' authors: the official 740 queries of Copenhagen and "
        "San Francisco",
        _WITHIN,
        18_871,
        740,
        (
            *_released((88.2, 93.1, 94.3), (84.1, 91.8, 93.7), (78.5, 88.2, 90.4)),
            _paper(88.0),
        ),
        radius_m=25.0,
    ),
    Protocol(
        "msls-val-all",
        "positions of every query of Copenhagen and San Francisco, panoramas excepted",
        "database images of the same city within 25 m",
        18_871,
        None,
        (Published("MixVPR 4096", {1: 83.4}, "github.com/amaralibey/MixVPR/issues/5"),),
        radius_m=25.0,
    ),
    Protocol("msls-test", "withheld: a prediction file is written", "none"),
    Protocol(
        "nordland",
        "Nordland_gt.npy, of GSV-Cities' authors: winter is searched for every tenth frame of "
        "summer",
        "the same frame and one before and after",
        27_592,
        2_760,
        (_paper(58.4),),
        frames=1,
    ),
    Protocol(
        "nordland-full",
        "frames: summer is searched for every frame of winter",
        "frames at most 10 away",
        27_592,
        27_592,
        (Published("MixVPR 4096", {1: 76.2}, "github.com/gmberton/VPR-methods-evaluation"),),
        frames=10,
    ),
    Protocol(
        "nordland-selavpr",
        "frames of SelaVPR's part of the journey, in the order of their names",
        "frames at most 2 away",
        3_450,
        3_450,
        frames=2,
    ),
    _lists("sped", "SPED", 607, 607, _paper(85.2)),
    _lists("essex", "ESSEX", 210, 210),
    _lists("crossseason", "CrossSeason", 191, 191),
    _lists("inria", "Inria", 512, 300),
    _struct("tokyo247", 75_984, 315, _paper(85.1)),
)

BENCHMARKS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
