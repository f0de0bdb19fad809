"""The benchmarks by name: what each one counts, over how many images, and what was published.

Where a number of images is None, no source was found that says it; the lists are followed as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping

from mixvpr_jax.datasets.evaluation_set import Protocol, Published

_REPOSITORY = "github.com/amaralibey/MixVPR"
_PAPER = "Ali-bey, Chaib-draa, Giguère: MixVPR, WACV 2023"
_STRUCT = "dbStruct of {}.mat, by the authors of NetVLAD"
_WITHIN = "database images within 25 m"
_LISTS = "{}_gt.npy, of GSV-Cities' authors"


def _paper(recall_at_1: float) -> Published:
    return Published("MixVPR 4096, paper", {1: recall_at_1}, _PAPER)


def _released(*recalls: tuple[float, float, float]) -> tuple[Published, ...]:
    """R@1, R@5 and R@10 of the released weights: 4096, 512, 128."""
    return tuple(
        Published(f"MixVPR {size}", dict(zip((1, 5, 10), recall, strict=True)), _REPOSITORY)
        for size, recall in zip((4096, 512, 128), recalls, strict=True)
    )


def _pittsburgh(
    name: str, database: int | None, queries: int | None, published: tuple[Published, ...] = ()
) -> Protocol:
    source = _STRUCT.format(name.replace("-", "_"))
    return Protocol(name, source, _WITHIN, database, queries, published, radius_m=25.0)


def _lists(name: str, stem: str, images: tuple[int, int], recall: float | None = None) -> Protocol:
    published = () if recall is None else (_paper(recall),)
    return Protocol(name, _LISTS.format(stem), "as listed for each query", *images, published)


_PITTS250K_TEST = (
    *_released((94.3, 98.2, 98.9), (93.2, 97.9, 98.6), (88.7, 95.8, 97.4)),
    _paper(94.6),
)
_PITTS30K_TEST = _released((91.6, 95.5, 96.4), (90.7, 95.5, 96.3), (87.8, 94.3, 95.7))
_MSLS_VAL = (
    *_released((88.2, 93.1, 94.3), (84.1, 91.8, 93.7), (78.5, 88.2, 90.4)),
    _paper(88.0),
)

_ALL = (
    _pittsburgh("pitts30k-val", 10_000, 7_608),
    _pittsburgh("pitts30k-test", 10_000, 6_816, _PITTS30K_TEST),
    _pittsburgh("pitts250k-val", None, None),
    _pittsburgh("pitts250k-test", 83_952, 8_280, _PITTS250K_TEST),
    Protocol(
        "msls-val",
        "msls_val_pIdx.npy, of GSV-Cities' authors: the official 740 queries of Copenhagen and "
        "San Francisco",
        _WITHIN,
        18_871,
        740,
        _MSLS_VAL,
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
    _lists("sped", "SPED", (607, 607), 85.2),
    _lists("essex", "ESSEX", (210, 210)),
    _lists("crossseason", "CrossSeason", (191, 191)),
    _lists("inria", "Inria", (512, 300)),
    Protocol(
        "tokyo247",
        _STRUCT.format("tokyo247"),
        _WITHIN,
        75_984,
        315,
        (_paper(85.1),),
        radius_m=25.0,
    ),
)

BENCHMARKS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}
