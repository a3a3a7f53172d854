"""Data sets of the published benchmarks: where they are kept, getting them, and what lies on this machine."""

from delf_engine.datasets.checking import Check, Checked, check
from delf_engine.datasets.getting import Plan, Transfer, get, plan
from delf_engine.datasets.local import Dataset, data_folder, locate, missing_images
from delf_engine.datasets.table import KNOWN, Archive, Definition, RemoteFile, definition, parse_parts

__all__ = [
    "KNOWN",
    "Archive",
    "Check",
    "Checked",
    "Dataset",
    "Definition",
    "Plan",
    "RemoteFile",
    "Transfer",
    "check",
    "data_folder",
    "definition",
    "get",
    "locate",
    "missing_images",
    "parse_parts",
    "plan",
]
