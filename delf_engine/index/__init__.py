"""Indexes that gather candidate images: an inverted file of aggregated residuals, and KD-trees."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import CandidateIndex, IndexInfo
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.maintenance import check_index, has_index

__all__ = ["AsmkIndex", "CandidateIndex", "Codebook", "IndexInfo", "KdTreeIndex", "check_index", "has_index"]
