"""From a photograph to `LocalFeatures`."""

from delf_engine.extraction.extractor import Extractor

__all__ = ["Extractor"]
