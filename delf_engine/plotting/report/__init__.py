"""Pages in one HTML file: a re-ranked batch, and one verified pair.

A page holds its pictures and its style itself and asks nothing of the network; it has no script. The same input
gives the same bytes. What it looks like stands in ``delf_engine/plotting/templates``.
"""

from __future__ import annotations

from delf_engine.plotting.report.batch import write_report
from delf_engine.plotting.report.page import Written, check_path
from delf_engine.plotting.report.pair import write_pair_report

__all__ = ["Written", "check_path", "write_pair_report", "write_report"]
