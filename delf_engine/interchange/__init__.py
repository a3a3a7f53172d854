"""Features in the files of other software: DELF's own, hloc's, COLMAP's; published models in `published`."""

from delf_engine.interchange.delf_file import read_delf
from delf_engine.interchange.export import FORMATS, export_features
from delf_engine.interchange.hloc_file import read_hloc

__all__ = ["FORMATS", "export_features", "read_delf", "read_hloc"]
