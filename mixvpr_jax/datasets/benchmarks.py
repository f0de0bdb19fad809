"""Any benchmark by its name, held to its protocol."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from mixvpr_jax.checks import no_folder, require_known
from mixvpr_jax.datasets import msls, nordland
from mixvpr_jax.datasets.evaluation_set import EvaluationSet
from mixvpr_jax.datasets.folders import read_labelled
from mixvpr_jax.datasets.ground_truth import Place, read_lists, read_struct
from mixvpr_jax.datasets.protocols import BENCHMARKS, Limits
from mixvpr_jax.errors import InputError
from mixvpr_jax.storage import AnyPath

Reader = Callable[[Place], EvaluationSet]

_TIMES = {"D": "day", "S": "sunset", "N": "night"}


def _pittsburgh(place: Place) -> EvaluationSet:
    databases, queries = (".", "images"), ("queries_real", "queries", "query")
    name = place.protocol.name
    return _read_netvlad(place, name.replace("-", "_"), name.split("-")[1], databases, queries)


def _tokyo247(place: Place) -> EvaluationSet:
    """Tokyo 24/7, whose struct says .jpg for files that are .png."""
    databases = ".", "database_gsv_vga", "tokyo247", "images", "database"
    parents = "", "queries/", "query/", "tokyo247/"
    queries = *(f"{parent}247query_subset_v2" for parent in parents), "queries", "query"
    found = _read_netvlad(place, "tokyo247", "test", databases, queries)
    times = list(takewhile(bool, map(_time, found.queries)))
    return replace(found, conditions={"light": times} if len(times) == len(found.queries) else {})


def _read_netvlad(
    place: Place, stem: str, split: str, databases: Sequence[str], queries: Sequence[str]
) -> EvaluationSet:
    """The authors' layout, where images of it are there; else VPR-datasets-downloader's.

    Names in ground truth are relative to one of `databases` or `queries` in the dataset's folder.
    """
    file, pair, roots = place.truth(f"{stem}.mat"), place.pair(split), place.roots()
    of_database = [root / base for root in roots for base in databases]
    of_queries = [root / base for root in roots for base in queries]
    if file is not None:
        found = read_struct(file, place.protocol, (of_database, of_queries))
    else:
        found = read_lists(place, (of_database, [*roots, *of_queries]), stem)
    if found is not None and not (pair and found.is_absent):
        return found
    if pair is not None:
        return read_labelled(place.protocol, pair)
    raise place.nothing(
        f"the authors' {stem}.mat, or {stem}_dbImages.npy, {stem}_qImages.npy and {stem}_gt.npy or "
        f"{stem}_gt_25m.npy, here, in datasets or in the folder given as ground truth",
        f"VPR-datasets-downloader's images/{split}/database and images/{split}/queries",
    )


def _time(query: AnyPath) -> str:
    """Day, sunset or night: the sixth field of the .csv beside a query; "" where it is missing."""
    try:
        table = query.with_suffix(".csv").read_bytes().decode()
        fields = next(csv.reader(io.StringIO(table, newline="")), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return ""
    return _TIMES.get(fields[5].strip().upper(), "") if len(fields) > 5 else ""


def _vpr_bench(*stems: str) -> Reader:
    """A reader of the lists, images in `ref` and `query`; of SPED the downloader's layout, too."""

    def read(place: Place) -> EvaluationSet:
        if found := read_lists(place, [place.roots()] * 2, *stems):
            return found
        is_sped = stems == ("SPED",)
        if is_sped and (pair := place.pair("test")):
            return read_labelled(place.protocol, pair)
        raise place.nothing(
            f"{stems[0]}_dbImages.npy, {stems[0]}_qImages.npy and {stems[0]}_gt.npy of the "
            "authors' repository, here, in datasets or in the folder given as ground truth",
            *(["VPR-datasets-downloader's images/test"] if is_sped else ()),
        )

    return read


def _named(queries: str, database: str = "database") -> Reader:
    """A reader of VPR-datasets-downloader's layout, with folders of these names."""

    def read(place: Place) -> EvaluationSet:
        if pair := place.pair("test", database, queries):
            return read_labelled(place.protocol, pair)
        within = "processed/test" if place.protocol.name.startswith("sf-xl") else "images/test"
        raise place.nothing(
            f"folders {database} and {queries}, here or in {within}, as VPR-datasets-downloader "
            "lays them out"
        )

    return read


_PITTSBURGH = ("Pittsburgh", "Pittsburgh250k", "pitts")
_MSLS = ("msls", "msls_val", "msls-val", "mapillary_sls", "mapillary")
_NORDLAND = ("Nordland", "nordland-test")
_SVOX = ("svox",)
_SF_XL = ("sf_xl", "sf-xl", "sfxl")

# How each is read, and what its folder is usually called.
_READERS: Mapping[str, tuple[Reader, tuple[str, ...]]] = {
    "pitts30k-val": (_pittsburgh, ("pitts30k-val", "pitts30k", *_PITTSBURGH)),
    "pitts30k-test": (_pittsburgh, ("pitts30k-test", "pitts30k", *_PITTSBURGH)),
    "pitts250k-val": (_pittsburgh, ("pitts250k-val", "pitts250k", *_PITTSBURGH)),
    "pitts250k-test": (_pittsburgh, ("pitts250k-test", "pitts250k", *_PITTSBURGH)),
    "msls-val": (msls.read_msls_val, _MSLS),
    "msls-val-all": (msls.read_msls_val_all, _MSLS),
    "msls-test": (msls.read_msls_test, _MSLS),
    "nordland": (nordland.read_nordland, _NORDLAND),
    "nordland-full": (nordland.read_nordland_full, _NORDLAND),
    "nordland-selavpr": (nordland.read_nordland_selavpr, _NORDLAND),
    "sped": (_vpr_bench("SPED"), ("SPED", "SPEDTEST")),
    "essex": (_vpr_bench("ESSEX"), ("ESSEX", "ESSEX3IN1", "ESSEX3IN1_dataset")),
    "crossseason": (
        _vpr_bench("CrossSeason", "CrossSeasons"),
        ("CrossSeason", "CrossSeasons", "CrossSeason_CoHOG_Dataset"),
    ),
    "inria": (
        _vpr_bench("Inria", "InriaHolidays"),
        ("Inria", "InriaHolidays", "inria_holidays"),
    ),
    "tokyo247": (_tokyo247, ("tokyo247", "tokyo_247", "tokyo24_7")),
    "svox-test": (_named("queries", "gallery"), _SVOX),
    "svox-night": (_named("queries_night", "gallery"), _SVOX),
    "svox-overcast": (_named("queries_overcast", "gallery"), _SVOX),
    "svox-rain": (_named("queries_rain", "gallery"), _SVOX),
    "svox-snow": (_named("queries_snow", "gallery"), _SVOX),
    "svox-sun": (_named("queries_sun", "gallery"), _SVOX),
    "st-lucia": (_named("queries"), ("st_lucia", "st-lucia", "stlucia")),
    "eynsham": (_named("queries"), ("eynsham",)),
    "amstertime": (_named("queries"), ("amstertime", "amster_time")),
    "sf-xl-v1": (_named("queries_v1"), _SF_XL),
    "sf-xl-v2": (_named("queries_v2"), _SF_XL),
    "sf-xl-night": (_named("queries_night"), _SF_XL),
    "sf-xl-occlusion": (_named("queries_occlusion"), _SF_XL),
    "sf-landmark": (_named("queries"), ("san_francisco", "sf_landmark", "sf-landmark")),
}

_ALIKE = "nordland", "sped", "essex", "crossseason", "inria"  # call images ref/0000000.jpg, …


def read_benchmark(
    name: str, folder: AnyPath, *, ground_truth: AnyPath | None = None, allow_subset: bool = False
) -> EvaluationSet:
    """Reads a benchmark where it lies, and holds it to its protocol.

    The folder is the dataset's own, or holds it under a usual name; the authors' .mat or .npy files
    lie there or in `ground_truth`. `allow_subset` accepts a part of it, which is marked as one.

    Raises:
        InputError: No such benchmark; nothing of it there; ground truth that is missing or broken;
            images that are missing, all of them in `details`; or numbers of images that are not
            the protocol's.
    """
    require_known("dataset", name, BENCHMARKS)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of {name}, found {no_folder(folder)}")
    if ground_truth is not None and not ground_truth.exists():
        raise InputError(f"{ground_truth}: expected the ground truth of {name}, found nothing")
    reader, names = _READERS[name]
    usual = {each.lower(): other for other in _ALIKE for each in _READERS[other][1]}
    if name in _ALIKE and (found_as := usual.get(folder.name.lower(), name)) != name:
        raise InputError(
            f"{folder}: expected the folder of {name}, found one that is called as {found_as}'s, "
            "whose images have the same names"
        )
    place = Place(BENCHMARKS[name], folder, ground_truth, names)
    found = reader(place)
    if ground_truth and ground_truth.is_file() and ground_truth.name not in found.layout:
        raise InputError(
            f"{ground_truth}: expected ground truth of {name}, found a file that is not read, but "
            f"{found.layout}; give none, or the folder of the authors' files"
        )
    _require_counts(place, found, allow_subset)
    return _present(place, found, allow_subset)


def _require_counts(place: Place, whole: EvaluationSet, allow_subset: bool) -> None:
    """As many images as the protocol says; fewer if a subset is allowed."""
    protocol = place.protocol
    counts = len(whole.database), len(whole.queries)
    found = _wrong_counts(place, whole)
    if 0 in counts:
        raise InputError(found)
    same = next((other for other in BENCHMARKS.values() if other.counts == counts), protocol)
    if same.counts != protocol.counts:
        raise InputError(f"{found}, which are those of {same.name}")
    if any(has > most for has, (_, most) in zip(counts, protocol.limits, strict=True)):
        raise InputError(f"{found}, which is more than the benchmark has")
    if protocol.is_short(*counts) and not allow_subset:
        raise InputError(f"{found}; --allow-subset takes them and marks the result")


def _present(place: Place, whole: EvaluationSet, allow_subset: bool) -> EvaluationSet:
    """Only the images that are there, if those are all or a subset is allowed."""
    missing, total = whole.missing(), len(whole.database) + len(whole.queries)
    if missing and (not allow_subset or len(missing) == total):
        hint = "" if len(missing) == total else "; --allow-subset does without them and marks it"
        raise InputError(
            f"{place.title}: expected {total:,} images, found {len(missing):,} missing, the first "
            f"{missing[0]}{hint}",
            details=[f"missing: {path}" for path in missing],
        )
    kept = whole.select(*whole.present) if missing and whole.present else whole
    if not (kept.database and kept.queries):
        raise InputError(_wrong_counts(place, kept))
    is_short = place.protocol.is_short(len(kept.database), len(kept.queries))
    return replace(kept, is_subset=bool(missing) or is_short, present=None)


def _wrong_counts(place: Place, found: EvaluationSet) -> str:
    database, queries = map(_spoken, place.protocol.limits)
    return (
        f"{place.title}: expected {database}database images and {queries}queries, found "
        f"{len(found.database):,} database images and {len(found.queries):,} queries"
    )


def _spoken(limits: Limits) -> str:
    """Before what is counted; "" for any number."""
    least, most = limits
    if most == math.inf:
        return ""
    return f"{least:,} " if least == most else f"{least:,} to {most:,} "
