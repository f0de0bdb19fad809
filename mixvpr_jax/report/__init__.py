"""`report.html`: an evaluation to look at, in one file that opens offline.

Everything in it is read from the evaluation's output folder (`reader`) and from the photos that
the folder names (`thumbnails`). `columns` makes one JSON value of it, and `page` puts that and the
pictures into the page of the folder `page/`, whose scripts draw it.
"""

from mixvpr_jax.report.page import write_report

__all__ = ["write_report"]
