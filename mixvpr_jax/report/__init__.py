"""`report.html`: an evaluation to look at, in one file that opens offline.

Everything in it is read from the evaluation's output folder (`reader`) and from the photos that
the folder names (`thumbnails`). `columns` makes one JSON value of it, and `page` puts that and the
pictures into the page of the folder `page/`, whose scripts draw it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixvpr_jax.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Loads JAX on first use: `mixvpr report --help` needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mixvpr_jax.report import page

    return getattr(page, name)
