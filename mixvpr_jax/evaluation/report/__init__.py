"""`report.html`: an evaluation to look at, in one file that opens offline.

Python only gathers: `columns` turns a `ReportData` into one JSON value, `thumbnails` makes the
pictures, and `page` puts both into the page of the folder `page/`, whose scripts draw it.
"""

from mixvpr_jax.evaluation.report.data import OtherRun, ReportData
from mixvpr_jax.evaluation.report.page import write_report

__all__ = ["OtherRun", "ReportData", "write_report"]
