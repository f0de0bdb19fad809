"""Writes pairs of photos to match, for hloc and COLMAP: each query with its nearest photos."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import tyro

from mixvpr_jax.checks import require_positive
from mixvpr_jax.errors import InputError, ending_at_once, run_command
from mixvpr_jax.storage import as_path, atomic_write, reaching

SOURCE = (
    "Output folder of an evaluation, or descriptors as mixvpr describe writes them (.npy, .h5), "
    "which are searched in themselves unless --queries names others."
)
PAIRS = "File to write, a pair of names a line."


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs.

    Attributes:
        top: How many database photos of each query.
        exclude_near: For queries that are database photos: how many frames before and after each,
            in the order of names (10), or how many seconds (30s, by names that are
            Unix times, else by EXIF), to leave out. The photo itself always is.
        min_score: Least cosine similarity of a pair.
        queries: Descriptors of the queries, if they are in a file of their own.
        photos: Folder that names are relative to; for an evaluation by default the deepest one
            that holds all its photos.
        overwrite: Replace an earlier file.
    """

    top: int = 20
    exclude_near: str | None = None
    min_score: float | None = None
    queries: str | None = None
    photos: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_positive(self, "top")


def run(arguments: list[str], prog: str) -> None:
    """Writes pairs as the command line says."""
    run_command(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """The same; errors are the caller's to report."""
    tyro.cli(interface(), prog=prog, description=__doc__, args=arguments)


def interface() -> Callable[..., None]:
    """What the command line calls."""
    return command


def command(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT", help=SOURCE)],
    pairs: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PAIRS.txt", help=PAIRS)],
    config: Annotated[PairsConfig, tyro.conf.arg(name="")],
) -> None:
    """Writes pairs of photos to match, and prints how many."""
    with ending_at_once():
        from mixvpr_jax.evaluation.pairs import find_pairs, read_photos

    output, folder = as_path(pairs), None if config.photos is None else as_path(config.photos)
    with reaching(output):
        if output.exists() and (output.is_dir() or not config.overwrite):
            raise InputError(f"{output}: expected no such file, found one; give --overwrite")
    database, asked = read_photos(as_path(source), folder)
    if config.queries is not None:
        asked = read_photos(as_path(config.queries), folder)[0]
    found = find_pairs(database, asked, config.top, config.exclude_near, config.min_score)
    with atomic_write(output) as file:
        lines = "".join(f"{query} {image}\n" for query, image in found)
        file.write_text(lines, encoding="utf-8", errors="surrogateescape")
    count = f"{len(found):,} pairs of {len(dict(found)):,} queries"
    under = f", names below {shlex.quote(str(database.folder))}" if database.folder else ""
    print(f"{count}{under}: {shlex.quote(pairs)}")
