"""Pages in one HTML file: a re-ranked batch, one verified pair, and a benchmark run.

A page holds its pictures and its style itself and asks nothing of the network; it has no script. The same input
gives the same bytes.
"""

from __future__ import annotations

from delf_engine.plotting.report.batch import Written, write_report
from delf_engine.plotting.report.benchmark import write_benchmark_report
from delf_engine.plotting.report.benchmark_parsing import read_benchmark_result
from delf_engine.plotting.report.benchmark_text import benchmark_markdown
from delf_engine.plotting.report.pair import write_pair_report

__all__ = [
    "Written",
    "benchmark_markdown",
    "read_benchmark_result",
    "write_benchmark_report",
    "write_pair_report",
    "write_report",
]
