"""A benchmark run as one HTML page and as Markdown; its command is ``python -m benchmarks.revisited.report``."""

from benchmarks.revisited.report.page import markdown, write_benchmark_page
from benchmarks.revisited.report.result import read_result

__all__ = ["markdown", "read_result", "write_benchmark_page"]
