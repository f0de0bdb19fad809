"""What counts as found, over which images: the protocol of each benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

Range = tuple[int, int]
Limits = tuple[float, float]


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
        about_database: The least and the most database images, where the published number is
            rounded.
        about_queries: The least and the most queries, likewise.
    """

    name: str
    ground_truth: str
    positives: str
    num_database: int | None = None
    num_queries: int | None = None
    published: tuple[Published, ...] = ()
    radius_m: float | None = None
    frames: int | None = None
    about_database: Range | None = None
    about_queries: Range | None = None

    @property
    def counts(self) -> tuple[int | None, int | None]:
        """How many database images and queries it is defined over."""
        return self.num_database, self.num_queries

    @property
    def limits(self) -> tuple[Limits, Limits]:
        """The least and the most database images and queries that may be the whole."""
        about = self.about_database, self.about_queries
        database, queries = (
            limits or ((0, math.inf) if count is None else (count, count))
            for count, limits in zip(self.counts, about, strict=True)
        )
        return database, queries

    def is_short(self, *counts: int) -> bool:
        """Whether so many database images and queries are less than the whole."""
        return any(has < least for has, (least, _) in zip(counts, self.limits, strict=True))


# Published results --------------------------------------------------------------------------------
# Of the released weights of 4096, 512 and 128 dimensions: R@1, R@5 and R@10 by their authors, and
# R@1 of the paper and of others who measured them.

_MIXVPR = "MixVPR 4096", "MixVPR 512", "MixVPR 128"
_RELEASED = {
    "pitts30k-test": ((91.6, 95.5, 96.4), (90.7, 95.5, 96.3), (87.8, 94.3, 95.7)),
    "pitts250k-test": ((94.3, 98.2, 98.9), (93.2, 97.9, 98.6), (88.7, 95.8, 97.4)),
    "msls-val": ((88.2, 93.1, 94.3), (84.1, 91.8, 93.7), (78.5, 88.2, 90.4)),
}
_PAPER = {
    "pitts250k-test": 94.6, "msls-val": 88.0, "nordland": 58.4, "sped": 85.2, "tokyo247": 85.1
}  # fmt: skip
_OTHERS = {
    "msls-val-all": (83.4, "github.com/amaralibey/MixVPR/issues/5"),
    "nordland-full": (76.2, "github.com/gmberton/VPR-methods-evaluation"),
}
_EIGENPLACES = {  # beside MixVPR CosPlace's and EigenPlaces' own largest
    "tokyo247": (85.1, 78.4, 56.8, 87.3, 93.0),
    "svox-night": (64.4, 44.8, 25.9, 50.7, 58.9),
    "svox-overcast": (96.2, 93.9, 92.3, 92.2, 93.1),
    "svox-rain": (91.5, 86.4, 80.9, 87.0, 90.0),
    "svox-snow": (96.8, 93.9, 87.7, 92.0, 93.1),
    "svox-sun": (84.8, 78.7, 73.5, 78.5, 86.4),
    "st-lucia": (99.6, 99.2, 99.0, 99.6, 99.6),
    "eynsham": (89.4, 87.6, 84.8, 90.0, 90.7),
    "amstertime": (40.2, 35.8, 23.1, 47.7, 48.9),
    "sf-xl-v1": (71.1, 57.7, 36.7, 76.4, 84.1),
    "sf-xl-v2": (88.5, 84.3, 68.4, 88.8, 90.8),
    "sf-landmark": (83.8, 79.4, 66.9, 87.1, 89.6),
}


def _published(name: str) -> Iterator[Published]:
    for method, (at_1, at_5, at_10) in zip(_MIXVPR, _RELEASED.get(name, ()), strict=False):
        yield Published(method, {1: at_1, 5: at_5, 10: at_10}, "github.com/amaralibey/MixVPR")
    if name in _PAPER:
        source = "Ali-bey, Chaib-draa, Giguère: MixVPR, WACV 2023"
        yield Published("MixVPR 4096, paper", {1: _PAPER[name]}, source)
    if name in _OTHERS:
        at_1, source = _OTHERS[name]
        yield Published("MixVPR 4096", {1: at_1}, source)
    methods = *_MIXVPR, "CosPlace 2048", "EigenPlaces 2048"
    for method, at_1 in zip(methods, _EIGENPLACES.get(name, ()), strict=False):
        source = "Berton, Trivigno, Caputo, Masone: EigenPlaces, ICCV 2023"
        yield Published(method, {1: at_1}, source)


# The benchmarks -----------------------------------------------------------------------------------
# Where a number of images is None, no source was found that says it: the lists are followed.

Count = int | None
_WITHIN = "database images within 25 m"


def _struct(name: str, database: Count = None, queries: Count = None) -> Protocol:
    source = f"dbStruct of {name.replace('-', '_')}.mat, by the authors of NetVLAD"
    return Protocol(name, source, _WITHIN, database, queries, radius_m=25.0)


def _lists(name: str, stem: str, database: Count, queries: Count) -> Protocol:
    source = f"{stem}_gt.npy, of GSV-Cities' authors"
    return Protocol(name, source, "as listed for each query", database, queries)


def _named(name: str, database: Count, queries: Count, **about: Range) -> Protocol:
    """Names in the downloader's layouts hold positions."""
    source = "@utm_east@utm_north@ in file names"
    return replace(Protocol(name, source, _WITHIN, database, queries, radius_m=25.0), **about)


# "2.8M" in its README; the 27,000 of its small version are another benchmark.
_SF_XL = (2_700_000, 2_900_000)

_ALL = (
    _struct("pitts30k-val", 10_000, 7_608),
    _struct("pitts30k-test", 10_000, 6_816),
    _struct("pitts250k-val"),
    _struct("pitts250k-test", 83_952, 8_280),
    Protocol(
        "msls-val",
        "msls_val_pIdx.npy, of GSV-Cities' authors: the official 740 queries of Copenhagen and "
        "San Francisco",
        _WITHIN,
        18_871,
        740,
        radius_m=25.0,
    ),
    Protocol(
        "msls-val-all",
        "positions of every query of Copenhagen and San Francisco, panoramas excepted",
        "database images of the same city within 25 m",
        18_871,
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
        frames=1,
    ),
    Protocol(
        "nordland-full",
        "frames: summer is searched for every frame of winter",
        "frames at most 10 away",
        27_592,
        27_592,
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
    _lists("sped", "SPED", 607, 607),
    _lists("essex", "ESSEX", 210, 210),
    _lists("crossseason", "CrossSeason", 191, 191),
    _lists("inria", "Inria", 512, 300),
    _struct("tokyo247", 75_984, 315),
    _named("svox-test", 17_166, 14_278),
    _named("svox-night", 17_166, 823),
    _named("svox-overcast", 17_166, 872),
    _named("svox-rain", 17_166, 937),
    _named("svox-snow", 17_166, 870),
    _named("svox-sun", 17_166, 854),
    _named("st-lucia", 1_549, 1_464),
    _named("eynsham", 23_935, None, about_queries=(23_500, 24_500)),
    Protocol(
        "amstertime",
        "pairs of an archival photo and a street view, by their names",
        "the one of its pair",
        1_231,
        1_231,
    ),
    _named("sf-xl-v1", None, 1_000, about_database=_SF_XL),
    _named("sf-xl-v2", None, 598, about_database=_SF_XL),
    _named("sf-xl-night", None, 466, about_database=_SF_XL),
    _named("sf-xl-occlusion", None, 76, about_database=_SF_XL),
    _named("sf-landmark", None, 598, about_database=(1_030_000, 1_050_000)),
)

BENCHMARKS: Mapping[str, Protocol] = {
    each.name: replace(each, published=tuple(_published(each.name))) for each in _ALL
}
