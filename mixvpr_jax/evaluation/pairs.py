"""Pairs of photos to match, as hloc and COLMAP read them: a query and a database photo a line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import numpy as np

from mixvpr_jax.checks import nearest, require_one_size
from mixvpr_jax.datasets.names import frames_near, unix_times
from mixvpr_jax.errors import InputError, extra
from mixvpr_jax.evaluation.output import OUTPUTS, read_names
from mixvpr_jax.evaluation.recall import identity, own_photos, with_near
from mixvpr_jax.evaluation.search import Index
from mixvpr_jax.exif import read_exif
from mixvpr_jax.storage import AnyPath, as_path, local_copy, reaching
from mixvpr_jax.writable import require_free

SLACK_SECONDS = 1e-6  # more than float64 rounds of a Unix time
SIDES = ("database", "query")
REMEDY = "list each set in a .txt in the folder that holds both, and describe these lists"
SAMPLE = 1000  # queries whose norms are looked at
SAME = 0.99  # cosine of two descriptors of one photo, whatever the engines and numbers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photos:
    """Names of n photos, below `folder` where it is known, and their descriptors [n, d]."""

    names: list[str]
    descriptors: np.ndarray
    folder: AnyPath | None


def find_pairs(
    database: Photos, queries: Photos, top: int, exclude_near: str | None, min_score: float | None
) -> list[tuple[str, str]]:
    """Each query's nearest photos, nearest first, that are neither itself nor near it.

    Raises:
        InputError: Names with spaces, unknown times, descriptors that do not fit, no pair at all.
    """
    for name in (*database.names, *queries.names):
        if not name or any(map(str.isspace, name)):
            raise InputError(
                f"expected names without spaces, at which hloc and COLMAP split a line, found "
                f"{name!r}; rename it"
            )
    require_one_size(queries.descriptors, database.descriptors)
    norms = np.linalg.norm(queries.descriptors[:SAMPLE].astype(np.float32), axis=1)
    if np.abs(norms - 1).max(initial=0) > 0.01:
        logger.warning(
            "note: descriptors of norms from %.3g to %.3g are ranked by distance, as mixvpr eval "
            "ranks them; hloc ranks by product", norms.min(), norms.max(),
        )  # fmt: skip
    left_out = _left_out(database, queries, exclude_near)
    most = top + max(map(len, left_out), default=0)
    indices, _ = Index(database.descriptors).search(queries.descriptors, most)
    found = []
    for row, name in enumerate(queries.names):
        some = indices[row][~np.isin(indices[row], left_out[row])][:top]
        if min_score is not None:
            some = some[_cosines(queries.descriptors[row], database.descriptors[some]) >= min_score]
        found += [(name, database.names[index]) for index in some.tolist()]
    if not found:
        least = "" if min_score is None else f" and whose score is at least {min_score:g}"
        raise InputError(f"expected pairs of photos that are not left out{least}, found none")
    return found


def _cosines(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    query, rows = (array.astype(np.float64) for array in (query, rows))
    return rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))


def _left_out(database: Photos, queries: Photos, exclude_near: str | None) -> list[list[int]]:
    """For each query the indices of the database photos that are itself or near it."""
    own = own_photos(queries.names, database.names)
    if queries.folder is not None and database.folder is not None:  # a file has several names
        folders = (queries.folder, queries.names), (database.folder, database.names)
        own = own_photos(
            *([identity(folder / name) for name in names] for folder, names in folders)
        )
    _require_same_photos(database, queries, own)
    _require_one_folder(database, queries, own)
    if exclude_near is None:
        return own
    parsed = re.fullmatch(r"(\d+)|(\d+\.?\d*)s", exclude_near, re.ASCII)
    if parsed is None:
        raise InputError(
            f"exclude_near: expected frames (10) or seconds (30s), found {exclude_near}"
        )
    if not any(own):
        raise InputError(
            "exclude_near: expected queries that are database photos, found none; leave it out"
        )
    if parsed[1]:
        near = frames_near([PurePosixPath(name) for name in database.names], int(parsed[1]))
    else:
        times, seconds = _times(database), float(parsed[2]) + SLACK_SECONDS
        order = np.argsort(times, kind="stable")
        ends = (np.searchsorted(times[order], times + shift) for shift in (-seconds, seconds))
        near = [order[first:end] for first, end in zip(*ends, strict=True)]
    return with_near(own, near)


def _require_same_photos(database: Photos, queries: Photos, own: list[list[int]]) -> None:
    """Raises InputError for a query that only shares its name with a photo of the database."""
    for row, some in enumerate(own if queries is not database else ()):
        if some and _cosines(queries.descriptors[row], database.descriptors[some]).max() < SAME:
            raise InputError(
                f"expected names that tell photos apart, found two {queries.names[row]} with "
                f"different descriptors; {REMEDY}"
            )


def _require_one_folder(database: Photos, queries: Photos, own: list[list[int]]) -> None:
    """Raises InputError for queries that are database photos by names below another folder."""
    if any(own):
        return
    last = ([PurePosixPath(name).name for name in side.names] for side in (queries, database))
    alike = {
        row: same
        for row, some in enumerate(own_photos(*last))
        if (same := [at for at in some if _end_alike(queries.names[row], database.names[at])])
    }
    if alike and all(
        _cosines(queries.descriptors[row], database.descriptors[same]).max() >= SAME
        for row, same in alike.items()
    ):
        row, same = next(iter(alike.items()))
        raise InputError(
            f"expected names below one folder, found the same photos as {queries.names[row]} and "
            f"{database.names[same[0]]}; {REMEDY}"
        )


def _end_alike(name: str, other: str) -> bool:
    """Whether a name is another's last folders and file."""
    return f"/{name}".endswith(f"/{other}") or f"/{other}".endswith(f"/{name}")


def _times(photos: Photos) -> np.ndarray:
    """[n] seconds, by the names where all of them are Unix times, else by EXIF."""
    named = unix_times([PurePosixPath(name).stem for name in photos.names])
    if None not in named:
        return np.array(named, np.float64)
    if photos.folder is None:
        raise InputError(
            "exclude_near: expected names that are Unix times, or photos whose EXIF data tell the "
            f"time, found {photos.names[named.index(None)]}; give --photos FOLDER"
        )
    taken = [read_exif(photos.folder / name).time for name in photos.names]
    known = [(time - datetime(1970, 1, 1)).total_seconds() for time in taken if time is not None]
    if len(known) < len(taken):
        raise InputError(
            f"exclude_near: expected EXIF data with the time in every photo, found none in "
            f"{len(taken) - len(known)} of {len(taken)}, the first "
            f"{photos.names[taken.index(None)]}; give a number of frames"
        )
    return np.array(known, np.float64)


# Files of descriptors -----------------------------------------------------------------------------


def check_output(file: AnyPath, sources: Sequence[AnyPath], *, overwrite: bool) -> None:
    """Raises InputError where pairs cannot be written, or would replace what they are found by."""
    beside = [source.with_suffix(".txt") for source in sources if source.suffix == ".npy"]
    inside = [source / name for source in sources for name in OUTPUTS]
    require_free([file], "the pairs", overwrite=overwrite, sources=[*sources, *beside, *inside])


def read_photos(source: AnyPath, folder: AnyPath | None) -> tuple[Photos, Photos]:
    """The database and the queries; the same twice where a file holds one set of photos."""
    with reaching(source):
        is_folder, there = source.is_dir(), source.exists()
    if not there:
        raise InputError(
            f"{source}: expected an evaluation's output folder or descriptors (.npy, .h5), found "
            f"no such file{nearest(source)}"
        )
    if is_folder:
        return _read_evaluation(source, folder)
    if source.suffix == ".npy":
        txt = source.with_suffix(".txt")
        with reaching(txt):
            if not txt.is_file():
                raise InputError(
                    f"{txt}: expected the names of the descriptors, found no such file"
                )
            names = txt.read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
        descriptors = load_descriptors(source)
    elif source.suffix == ".h5":
        names, descriptors = _load_hloc(source)
    else:
        raise InputError(f"{source}: expected descriptors (.npy, .h5), found another file")
    photos = _named(source, names, descriptors, folder)
    return photos, photos


def _named(
    source: AnyPath, names: list[str], descriptors: np.ndarray, folder: AnyPath | None
) -> Photos:
    shape, kind = descriptors.shape, str(descriptors.dtype)
    if len(shape) != 2 or kind not in ("float32", "float16", "bfloat16"):
        raise InputError(
            f"{source}: expected descriptors [n, d] in float32, float16 or bfloat16, found "
            f"{list(shape)} in {kind}"
        )
    if not len(set(names)) == len(names) == len(descriptors):
        raise InputError(
            f"{source}: expected a name for each descriptor, found {len(names):,} names and "
            f"{len(descriptors):,} descriptors ({len(set(names)):,} distinct names); describe again"
        )
    return Photos(names, descriptors, folder)


def _read_evaluation(output: AnyPath, folder: AnyPath | None) -> tuple[Photos, Photos]:
    database, queries = (
        list(map(as_path, read_names(output / f"{side}_images.csv"))) for side in SIDES
    )
    if not database or not queries:
        raise InputError(f"{output}: expected what mixvpr eval writes; evaluate again")
    if len({path.is_absolute() for path in (*database, *queries, folder or queries[0])}) > 1:
        database, queries = ([path.absolute() for path in side] for side in (database, queries))
        folder = folder and folder.absolute()
    folders = {path.parent for path in (*database, *queries)}
    some = next(iter(folders))
    above = (some, *some.parents) if folder is None else (folder,)
    root = next((one for one in above if all(p.is_relative_to(one) for p in folders)), None)
    if root is None:
        where = "one folder" if folder is None else str(folder)
        raise InputError(f"{output}: expected photos of {where}; give --photos FOLDER")
    found = []
    for paths, side in zip((database, queries), SIDES, strict=True):
        names = [path.relative_to(root).as_posix() for path in paths]
        file = output / f"{side}_descriptors.npy"
        found.append(_named(output, names, load_descriptors(file), root))
    return found[0], found[1]


def load_descriptors(file: AnyPath) -> np.ndarray:
    """The array of a .npy file, mapped from a disk."""
    try:
        with local_copy(file) as copy:
            found = np.load(copy, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("an archive of arrays (.npz)")
        return found
    except (ValueError, FileNotFoundError, EOFError) as error:
        raise InputError(f"{file}: expected descriptors, found: {error}") from None


def _load_hloc(file: AnyPath) -> tuple[list[str], np.ndarray]:
    """Names and descriptors [n, d] out of the groups that hold a `global_descriptor`."""
    with extra("hloc", f"{file}: expected h5py"):
        import h5py

    found: list[tuple[str, Sequence[float]]] = []

    def visit(name: str | bytes, node: object) -> None:
        name = os.fsdecode(name)  # bytes of another encoding than UTF-8
        if name.endswith("/global_descriptor") and isinstance(node, h5py.Dataset):
            found.append((name.removesuffix("/global_descriptor"), node[()]))

    try:
        with local_copy(file) as copy, h5py.File(copy, "r") as groups:
            groups.visititems(visit)
        if not found:
            raise ValueError("none")
        names, rows = zip(*found, strict=True)
        return list(names), np.stack(rows)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: expected groups with a global_descriptor of one size, as hloc writes them, "
            f"found: {error}"
        ) from None
