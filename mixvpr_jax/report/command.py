"""`mixvpr report OUT [--compare OTHER]`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Annotated

import tyro

from mixvpr_jax.errors import ending_at_once, run_command
from mixvpr_jax.storage import as_path


def run(arguments: list[str], prog: str) -> None:
    """Writes the report that the command line asks for."""
    run_command(lambda: parse(arguments, prog))


def parse(arguments: list[str], prog: str) -> None:
    """The same, where errors are the caller's to tell."""
    tyro.cli(interface(), prog=prog, args=arguments)


def interface() -> Callable[..., None]:
    """What the command line calls."""
    return report


def report(
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    compare: str | None = None,
) -> None:
    """Writes report.html again from an evaluation's output folder.

    Args:
        output: The output folder of an evaluation.
        compare: The output folder of another evaluation of the same images, to compare with.
    """
    with ending_at_once():
        from mixvpr_jax.report.page import write_report

    folder = as_path(output)
    write_report(folder, None if compare is None else as_path(compare))
    print(f"report: {shlex.quote(str(folder / 'report.html'))}")
