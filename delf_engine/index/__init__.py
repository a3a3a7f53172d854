"""Indexes that gather candidate images: by visual words, by dense vectors, by neighbours of descriptors."""

from __future__ import annotations

from delf_engine.index.asmk.index import AsmkIndex
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.index.codebook.mixture import Mixture
from delf_engine.index.contract import IndexInfo, SearchBy
from delf_engine.index.dense.index import DenseIndex
from delf_engine.index.ivf.index import IvfIndex
from delf_engine.index.kdtree.index import KdTreeIndex
from delf_engine.index.kinds import KINDS, AnyIndex, IndexKind
from delf_engine.index.segments.disk import check_index, has_index, saved_mark

__all__ = [
    "KINDS",
    "AnyIndex",
    "AsmkIndex",
    "CandidateIndex",
    "Codebook",
    "DenseIndex",
    "Encoder",
    "IndexInfo",
    "IndexKind",
    "IvfIndex",
    "KdTreeIndex",
    "Mixture",
    "SearchBy",
    "check_index",
    "has_index",
    "saved_mark",
]
