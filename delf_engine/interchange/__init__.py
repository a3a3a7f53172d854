"""Features in the files of other software: DELF's own, hloc's, COLMAP's."""

from delf_engine.interchange.colmap_text import read_colmap, write_colmap
from delf_engine.interchange.delf_file import read_delf, write_delf
from delf_engine.interchange.export import FORMATS, export_features
from delf_engine.interchange.hloc_file import read_hloc, write_hloc

__all__ = [
    "FORMATS",
    "export_features",
    "read_colmap",
    "read_delf",
    "read_hloc",
    "write_colmap",
    "write_delf",
    "write_hloc",
]
