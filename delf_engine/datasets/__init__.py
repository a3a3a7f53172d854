"""Data sets of the published benchmarks: where they are kept, getting them, and what lies on this machine."""

from delf_engine.datasets.getting import get
from delf_engine.datasets.local import KNOWN, Dataset, Definition, Finding, check, data_folder, definition, locate

__all__ = ["KNOWN", "Dataset", "Definition", "Finding", "check", "data_folder", "definition", "get", "locate"]
