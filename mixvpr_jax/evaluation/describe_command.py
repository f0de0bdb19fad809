"""Writes the descriptors of photos: FILE.npy with their names in FILE.txt, or FILE.h5 for hloc.

One process describes all photos, on all of its devices.
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

PHOTOS = "A folder (searched at any depth), a photo, or a list: a .txt with a name a line."
OUTPUT = "FILE.npy or FILE.h5, a path or gs://bucket/name."


def run(arguments: list[str], prog: str) -> None:
    """Describes as the command line says."""
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
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE", help=OUTPUT)],
    config: Annotated[DescribeConfig, tyro.conf.arg(name="")],
) -> None:
    """Describes photos, and prints what came of it."""
    with ending_at_once():
        from mixvpr_jax.evaluation.photos import describe_photos
        from mixvpr_jax.programs import keep_programs

    keep_programs()
    found = describe_photos(as_path(photos), as_path(output), config)
    count, size = found.descriptors.shape
    what = f"{count} descriptors of {size} values, {found.descriptors.dtype}"
    lines = lines_of(found.reasons, found.num_turned)
    print(*lines, f"{what}: {shlex.quote(output)}", sep="\n")
