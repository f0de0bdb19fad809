"""Learns a projection of descriptors by PCA, and writes the model that gives the shorter ones.

The photos should be like those to search, but not the queries of a benchmark.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from typing import Annotated

import tyro

from mixvpr_jax.errors import ending_at_once, run_command
from mixvpr_jax.evaluation.command import lines_of
from mixvpr_jax.evaluation.config import DescribeConfig
from mixvpr_jax.storage import as_path

PHOTOS = "A folder (searched at any depth), or a list: a .txt with a name a line."
OUTPUT = "Folder of the new model, a path or gs://bucket/folder."
SIZE = "Length of the new descriptors; more photos than that are needed."
WHITEN = "Scale each direction to unit variance."


def run(arguments: list[str], prog: str) -> None:
    """Learns as the command line says."""
    run_command(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """The same; errors are the caller's to report."""
    logging.basicConfig(format="%(message)s")
    tyro.cli(interface(), prog=prog, description=__doc__, args=arguments)


def interface() -> Callable[..., None]:
    """What the command line calls."""
    return command


def command(
    photos: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS", help=PHOTOS)],
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="DIR", help=OUTPUT)],
    size: Annotated[int, tyro.conf.arg(help=SIZE)],
    config: Annotated[DescribeConfig, tyro.conf.arg(name="")],
    whiten: Annotated[bool, tyro.conf.arg(help=WHITEN)] = False,
) -> None:
    """Writes a projected model, and prints what it keeps."""
    with ending_at_once():
        from mixvpr_jax.evaluation.projection import learn_model
        from mixvpr_jax.programs import keep_programs

    keep_programs()
    found, projection = learn_model(as_path(photos), as_path(output), size, config, whiten=whiten)
    count, length = found.descriptors.shape
    what = f"{count:,} descriptors of {length} values to {size}"
    kept = f"{projection.explained:.1%} of the variance"
    lines = lines_of(found.reasons, found.num_turned)
    print(*lines, f"{what}, {kept}: {shlex.quote(output)}", sep="\n")
