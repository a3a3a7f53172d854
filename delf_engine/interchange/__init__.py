"""Features and matches in files of other software: DELF's own, hloc's, COLMAP's; `published`: its models."""

from delf_engine.interchange.delf_file import read_delf
from delf_engine.interchange.export import FORMATS, export_features, export_matches
from delf_engine.interchange.hloc_file import read_hloc

__all__ = ["FORMATS", "export_features", "export_matches", "read_delf", "read_hloc"]
