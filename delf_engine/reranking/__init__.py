"""Shortlists of any search in, rankings by geometric verification out."""

from __future__ import annotations

from delf_engine.reranking.arrays import shortlists_from_arrays, shortlists_from_ranks
from delf_engine.reranking.candidates import RankedCandidate, rank_verified, ranking_score
from delf_engine.reranking.confirming import Confirmer
from delf_engine.reranking.expansion import ExpansionConfig, expand_query
from delf_engine.reranking.graph import GraphCandidate, GraphConfig, rerank_graph
from delf_engine.reranking.hits import read_hits
from delf_engine.reranking.options import RerankOptions
from delf_engine.reranking.rerank import rerank_batch, rerank_shortlist
from delf_engine.reranking.shortlists import read_shortlists, write_rankings

__all__ = [
    "Confirmer",
    "ExpansionConfig",
    "GraphCandidate",
    "GraphConfig",
    "RankedCandidate",
    "RerankOptions",
    "expand_query",
    "rank_verified",
    "ranking_score",
    "read_hits",
    "read_shortlists",
    "rerank_batch",
    "rerank_graph",
    "rerank_shortlist",
    "shortlists_from_arrays",
    "shortlists_from_ranks",
    "write_rankings",
]
