"""Indexes that gather candidate images: by visual words, by dense vectors, by neighbours of descriptors."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import CandidateIndex, IndexInfo
from delf_engine.index.dense import DenseIndex
from delf_engine.index.ivf import IvfIndex
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.kinds import KINDS, AnyIndex, IndexKind, Vocabulary
from delf_engine.index.maintenance import check_index, has_index
from delf_engine.index.mixture import Mixture
from delf_engine.index.product_quantizer import ProductQuantizer

__all__ = [
    "KINDS",
    "AnyIndex",
    "AsmkIndex",
    "CandidateIndex",
    "Codebook",
    "DenseIndex",
    "IndexInfo",
    "IndexKind",
    "IvfIndex",
    "KdTreeIndex",
    "Mixture",
    "ProductQuantizer",
    "Vocabulary",
    "check_index",
    "has_index",
]
