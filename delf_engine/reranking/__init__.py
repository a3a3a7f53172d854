"""Shortlists of any search in, rankings by geometric verification out."""

from __future__ import annotations

from delf_engine.reranking.candidates import RankedCandidate
from delf_engine.reranking.rerank import rerank_batch, rerank_shortlist
from delf_engine.reranking.scoring import rank_verified, ranking_score
from delf_engine.reranking.shortlists import read_shortlists, write_rankings, write_shortlists

__all__ = [
    "RankedCandidate",
    "rank_verified",
    "ranking_score",
    "read_shortlists",
    "rerank_batch",
    "rerank_shortlist",
    "write_rankings",
    "write_shortlists",
]
