"""Indexes that gather candidate images: inverted files of aggregated residuals or of descriptors, and KD-trees."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import CandidateIndex, IndexInfo
from delf_engine.index.ivf import IvfIndex
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.product_quantizer import ProductQuantizer

__all__ = ["AsmkIndex", "CandidateIndex", "Codebook", "IndexInfo", "IvfIndex", "KdTreeIndex", "ProductQuantizer"]
