"""Shortlists of any search in, rankings by geometric verification out."""

from __future__ import annotations

from delf_engine.reranking.arrays import (
    ShortlistArrays,
    ranks_from_shortlists,
    shortlists_from_arrays,
    shortlists_from_ranks,
    shortlists_to_arrays,
)
from delf_engine.reranking.candidates import RankedCandidate
from delf_engine.reranking.expansion import expand_query
from delf_engine.reranking.graph import GraphCandidate, rerank_graph
from delf_engine.reranking.rerank import rerank_batch, rerank_shortlist
from delf_engine.reranking.scoring import rank_verified, ranking_score
from delf_engine.reranking.shortlists import read_shortlists, write_rankings, write_shortlists
from delf_engine.reranking.tuning import BlendingChoice, tuned_blending

__all__ = [
    "BlendingChoice",
    "GraphCandidate",
    "RankedCandidate",
    "ShortlistArrays",
    "expand_query",
    "rank_verified",
    "ranking_score",
    "ranks_from_shortlists",
    "read_shortlists",
    "rerank_batch",
    "rerank_graph",
    "rerank_shortlist",
    "shortlists_from_arrays",
    "shortlists_from_ranks",
    "shortlists_to_arrays",
    "tuned_blending",
    "write_rankings",
    "write_shortlists",
]
