"""Whether two evaluations may stand side by side: of the same images, with as many left out."""

from __future__ import annotations

from collections.abc import Sequence, Set

from mixvpr_jax.datasets.folders import FOLDER_MARK, LABELS
from mixvpr_jax.errors import InputError
from mixvpr_jax.evaluation.output import Output, read_names


def check_comparable(
    other: Output,
    dataset: str,
    queries: Sequence[object],
    database: Sequence[object],
    frames: int,
    own: int,
    unreadable: Sequence[str] = (),
) -> None:
    """Raises InputError unless another evaluation is of this data set, with as many left out.

    This one has these images and leaves out so many `frames` beside a query, and the `own` queries
    that are files of the database. The other one may also have those that were `unreadable` here (a
    line each).
    """
    # A folder called like a benchmark had the benchmark's name in earlier versions.
    protocol, found = other.results.get("protocol"), other.results["dataset"]
    truth = protocol.get("ground_truth") if isinstance(protocol, dict) else ""
    former = f"{found}{FOLDER_MARK}" if truth in (None, LABELS) else found
    if dataset not in (found, former):
        raise InputError(
            f"{other.folder}: expected results of {dataset} to compare with, found some of {found}"
        )
    if (theirs := other.results.get("exclude_neighbours", 0)) != frames:
        line = f"expected results with --exclude-neighbours {frames} to compare with"
        raise InputError(f"{other.folder}: {line}, found some with {theirs}")
    theirs = other.results.get("num_queries_in_database", 0)
    if bool(theirs) != bool(own):  # found in themselves they would be wrong here, or right there
        raise InputError(
            f"{other.folder}: expected results that leave {own} queries out of their own "
            f"neighbours to compare with, found some that leave out {theirs}; evaluate again"
        )
    path = other.folder / "predictions.csv"
    skipped = other.results.get("unreadable") or ()
    readable = set(map(str, database))
    listed = read_names(other.folder / "database_images.csv")  # none in early versions' folders
    sides = {
        "queries": (queries, other.queries),
        "database images": (database, listed or readable),
    }
    for what, side in sides.items():
        ours, given = (set(map(str, images)) for images in side)
        if strange := min(_unexplained(given - ours, unreadable), default=None):
            raise InputError(
                f"{path}: expected the {what} of {dataset} alone, by the names that they have "
                f"now, found {strange}"
            )
        if absent := min(_unexplained(ours - given, skipped), default=None):
            raise InputError(f"{path}: expected all {what} of {dataset}, found no {absent}")
    ours, pairs = set(map(str, queries)), zip(other.queries, other.images, strict=True)
    found = {name for query, row in pairs if query in ours for name in row}
    if strange := min(found - readable, default=None):
        raise InputError(
            f"{path}: expected readable images of {dataset}, where they lie now, found {strange}"
        )


def _unexplained(names: Set[str], unreadable: Sequence[str]) -> set[str]:
    """The images that are not among those that could not be read."""
    return {name for name in names if not any(line.startswith(f"{name}: ") for line in unreadable)}
