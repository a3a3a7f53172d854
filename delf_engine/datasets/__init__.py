"""Data sets of the published benchmarks: where they are kept, getting them, and what lies on this machine."""

from delf_engine.datasets.checking import Finding, check
from delf_engine.datasets.getting import get
from delf_engine.datasets.local import Dataset, data_folder, locate
from delf_engine.datasets.table import KNOWN, Definition, definition

__all__ = [
    "KNOWN",
    "Dataset",
    "Definition",
    "Finding",
    "check",
    "data_folder",
    "definition",
    "get",
    "locate",
]
