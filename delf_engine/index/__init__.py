"""Indexes that gather candidate images: inverted files of visual words, dense vectors, and KD-trees."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.bow import BowIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import CandidateIndex, IndexInfo
from delf_engine.index.fisher import FisherIndex
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.mixture import Mixture
from delf_engine.index.vlad import VladIndex

__all__ = [
    "AsmkIndex",
    "BowIndex",
    "CandidateIndex",
    "Codebook",
    "FisherIndex",
    "IndexInfo",
    "KdTreeIndex",
    "Mixture",
    "VladIndex",
]
