"""Any benchmark by its name, held to what its name promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mixvpr_jax.checks import nearest, require_known
from mixvpr_jax.datasets import msls, nordland, pittsburgh
from mixvpr_jax.datasets.evaluation_set import EvaluationSet, Found, Protocol
from mixvpr_jax.datasets.labelled import read_labelled
from mixvpr_jax.datasets.lists import read_lists
from mixvpr_jax.datasets.places import Place
from mixvpr_jax.datasets.protocols import BENCHMARKS
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

Reader = Callable[[Place], Found]

_PITTSBURGH = ("Pittsburgh", "Pittsburgh250k", "pitts")
_MSLS = ("msls", "msls_val", "msls-val", "mapillary_sls", "mapillary")
_NORDLAND = ("Nordland", "nordland-test")

STEMS = {
    "sped": ("SPED",),
    "essex": ("ESSEX",),
    "crossseason": ("CrossSeason", "CrossSeasons"),
    "inria": ("Inria", "InriaHolidays"),
}


def read_vpr_bench(place: Place) -> Found:
    """The lists, with images in `ref` and `query`; for SPED the downloader's layout as well.

    Raises:
        InputError: None of them is there, or the lists are broken.
    """
    name = place.protocol.name
    stems = STEMS[name]
    if lists := read_lists(place, *stems):
        return lists.find(place, place.roots())
    if name == "sped" and (pair := place.pair("test")):
        return read_labelled(place.protocol, pair, mock=True)
    raise place.nothing(
        f"{stems[0]}_dbImages.npy, {stems[0]}_qImages.npy and {stems[0]}_gt.npy of the authors' "
        "repository, here, in datasets or in the folder given as ground truth",
        *(["VPR-datasets-downloader's images/test"] if name == "sped" else ()),
    )


# How each is read, and what its folder is usually called.
_READERS: Mapping[str, tuple[Reader, tuple[str, ...]]] = {
    "pitts30k-val": (pittsburgh.read_pittsburgh, ("pitts30k-val", "pitts30k", *_PITTSBURGH)),
    "pitts30k-test": (pittsburgh.read_pittsburgh, ("pitts30k-test", "pitts30k", *_PITTSBURGH)),
    "pitts250k-val": (pittsburgh.read_pittsburgh, ("pitts250k-val", "pitts250k", *_PITTSBURGH)),
    "pitts250k-test": (pittsburgh.read_pittsburgh, ("pitts250k-test", "pitts250k", *_PITTSBURGH)),
    "msls-val": (msls.read_msls_val, _MSLS),
    "msls-val-all": (msls.read_msls_val_all, _MSLS),
    "msls-test": (msls.read_msls_test, _MSLS),
    "nordland": (nordland.read_nordland, _NORDLAND),
    "nordland-full": (nordland.read_nordland_full, _NORDLAND),
    "nordland-selavpr": (nordland.read_nordland_selavpr, _NORDLAND),
    "sped": (read_vpr_bench, ("SPED", "SPEDTEST")),
    "essex": (read_vpr_bench, ("ESSEX", "ESSEX3IN1", "ESSEX3IN1_dataset")),
    "crossseason": (
        read_vpr_bench,
        ("CrossSeason", "CrossSeasons", "CrossSeason_CoHOG_Dataset"),
    ),
    "inria": (read_vpr_bench, ("Inria", "InriaHolidays", "inria_holidays")),
    "tokyo247": (pittsburgh.read_tokyo247, ("tokyo247", "tokyo_247", "tokyo24_7")),
}


def read_benchmark(
    name: str, folder: AnyPath, *, ground_truth: AnyPath | None = None, allow_subset: bool = False
) -> EvaluationSet:
    """Reads a benchmark where it lies, and holds it to its protocol.

    Args:
        name: One of `BENCHMARKS`.
        folder: The dataset's own folder, or one that holds it under a usual name.
        ground_truth: Where the authors' .mat or .npy files lie, if not there.
        allow_subset: Take what there is of it, and mark it as a subset.

    Raises:
        InputError: No such benchmark; nothing of it there; ground truth that is missing or broken;
            images that are missing, all of them in `details`; or numbers of images that are not
            the protocol's.
    """
    require_known("dataset", name, BENCHMARKS)
    protocol = BENCHMARKS[name]
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected the folder of {name}, found no such folder{nearest(folder)}"
        )
    if ground_truth is not None and not ground_truth.exists():
        raise InputError(f"{ground_truth}: expected the ground truth of {name}, found nothing")
    reader, names = _READERS[name]
    place = Place(protocol, folder, ground_truth, names)
    found = reader(place)
    _require_counts(place, found.whole, allow_subset)
    return _present(place, found, allow_subset)


def _require_counts(place: Place, whole: EvaluationSet, allow_subset: bool) -> None:
    """As many images as the protocol says; fewer where a subset will do."""
    protocol, counts = place.protocol, (len(whole.database), len(whole.queries))
    found = f"{place.title}: expected {_expected(protocol)}, found {_counted(*counts)}"
    if 0 in counts:
        raise InputError(found)
    expected = protocol.num_database, protocol.num_queries
    same_as = _protocol_of(*counts, besides=protocol)
    if same_as is not None and counts != expected:
        raise InputError(f"{found}, which are those of {same_as.name}")
    pairs = [(has, due) for has, due in zip(counts, expected, strict=True) if due is not None]
    if any(has > due for has, due in pairs):
        raise InputError(f"{found}, which is no part of it")
    if any(has < due for has, due in pairs) and not allow_subset:
        raise InputError(f"{found}; --allow-subset takes them and marks the result")


def _present(place: Place, found: Found, allow_subset: bool) -> EvaluationSet:
    """Only the images that are there, if that is all of them or a subset will do."""
    whole, missing = found.whole, found.missing()
    total = len(found.database_present) + len(found.queries_present)
    if missing and (not allow_subset or len(missing) == total):
        hint = "" if len(missing) == total else "; --allow-subset does without them and marks it"
        raise InputError(
            f"{place.title}: expected {total:,} images, found {len(missing):,} missing, the first "
            f"{missing[0]}{hint}",
            details=[f"missing: {path}" for path in missing],
        )
    kept = whole.select(found.database_present, found.queries_present) if missing else whole
    counts = len(kept.database), len(kept.queries)
    if 0 in counts:
        raise InputError(
            f"{place.title}: expected {_expected(place.protocol)}, found {_counted(*counts)}"
        )
    expected = place.protocol.num_database, place.protocol.num_queries
    short = any(due not in (None, has) for has, due in zip(counts, expected, strict=True))
    return replace(kept, is_subset=bool(missing) or short)


def _protocol_of(database: int, queries: int, *, besides: Protocol) -> Protocol | None:
    """The other protocol that is over just so many images."""
    for protocol in BENCHMARKS.values():
        counts = protocol.num_database, protocol.num_queries
        if counts == (database, queries) and protocol.name != besides.name:
            return protocol
    return None


def _expected(protocol: Protocol) -> str:
    if protocol.num_database is None and protocol.num_queries is None:
        return "database images and queries"
    if protocol.num_queries is None:
        return f"{protocol.num_database:,} database images and queries"
    return _counted(protocol.num_database or 0, protocol.num_queries)


def _counted(database: int, queries: int) -> str:
    return f"{database:,} database images and {queries:,} queries"
