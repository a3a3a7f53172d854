"""Indexes that gather candidate images: by visual words, by dense vectors, by neighbours of descriptors."""

from __future__ import annotations

from delf_engine.index.asmk import AsmkIndex
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook import Codebook
from delf_engine.index.contract import IndexInfo
from delf_engine.index.dense import DenseIndex
from delf_engine.index.disk import check_index, has_index
from delf_engine.index.ivf import IvfIndex
from delf_engine.index.kdtree import KdTreeIndex
from delf_engine.index.kinds import KINDS, AnyIndex, IndexKind, Vocabulary
from delf_engine.index.limits import Limits
from delf_engine.index.mixture import Mixture

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
    "Limits",
    "Mixture",
    "Vocabulary",
    "check_index",
    "has_index",
]
