"""Indexes that gather candidate images: by visual words, by dense vectors, by neighbours of descriptors."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.bow import BowIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import CandidateIndex, IndexInfo
from delf_engine.index.fisher import FisherIndex
from delf_engine.index.ivf import IvfIndex
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.kinds import KINDS, AnyIndex, IndexKind, Vocabulary
from delf_engine.index.maintenance import check_index, has_index
from delf_engine.index.mixture import Mixture
from delf_engine.index.product_quantizer import ProductQuantizer
from delf_engine.index.vlad import VladIndex

__all__ = [
    "KINDS",
    "AnyIndex",
    "AsmkIndex",
    "BowIndex",
    "CandidateIndex",
    "Codebook",
    "FisherIndex",
    "IndexInfo",
    "IndexKind",
    "IvfIndex",
    "KdTreeIndex",
    "Mixture",
    "ProductQuantizer",
    "VladIndex",
    "Vocabulary",
    "check_index",
    "has_index",
]
