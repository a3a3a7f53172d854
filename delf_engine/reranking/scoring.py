"""The ranking score: by which of its evidence a verified candidate is ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from delf_engine.config import RankingConfig
from delf_engine.errors import MismatchError
from delf_engine.reranking.candidates import RankedCandidate, Shortlist, checked_shortlist
from delf_engine.verification import Verification

__all__ = ["rank_entries", "rank_verified", "ranking_score"]


def ranking_score(verification: Verification, ranking: RankingConfig) -> float:
    """Return what a verified candidate is ranked by; more is better.

    Inlier counts are the rule of DELF (Noh et al. 2017); sums of cubed similarities are the selectivity of ASMK
    (Tolias, Avrithis, Jégou 2016), here of exact nearest neighbours.

    Raises
    ------
    MismatchError
        If the rule needs similarities and the verification has summed them with another exponent.
    """
    evidence = _evidence(verification, ranking)
    return evidence if ranking.cap is None else min(evidence, ranking.cap)


def _evidence(verification: Verification, ranking: RankingConfig) -> float:
    counts = {"inliers": float(verification.inliers), "effective": float(verification.effective_inliers)}
    if ranking.score in counts and not ranking.blend:
        return counts[ranking.score]
    if verification.exponent != ranking.exponent:
        raise MismatchError(
            f"the verification sums similarity^{verification.exponent:g}, the ranking asks for "
            f"similarity^{ranking.exponent:g}; verify with exponent={ranking.exponent:g}"
        )
    if ranking.score == "similarity":
        return verification.similarity
    base = counts.get(ranking.score, verification.inlier_similarity)
    return base + ranking.blend * verification.similarity


def rank_verified(
    shortlist: Shortlist, verified: Mapping[str, Verification], *, ranking: RankingConfig, query: str = "query"
) -> list[RankedCandidate]:
    """Rank candidates that are verified already: the same verifications serve any number of rules.

    Parameters
    ----------
    shortlist : sequence of id or of (id, score)
        Candidates, best first; higher scores are better. An id that occurs again is dropped.
    verified : mapping of id to Verification
    ranking : RankingConfig
    query : str
        Named in errors.

    Returns
    -------
    list of RankedCandidate
        Those in `verified` by their ranking score; equal ones by their first score, then by their first place. All
        others follow in their first order.

    Raises
    ------
    DataError
        If the shortlist has the wrong shape or a score that is not finite.
    MismatchError
        If a verification has another exponent than the rule needs.
    """
    return rank_entries(checked_shortlist(shortlist, query=query), verified, ranking)


def rank_entries(
    entries: Sequence[tuple[str, float | None]], verified: Mapping[str, Verification], ranking: RankingConfig
) -> list[RankedCandidate]:
    """Do what `rank_verified` does, for a shortlist that `checked_shortlist` has returned."""
    places = [(first, image_id, score) for first, (image_id, score) in enumerate(entries, start=1)]
    ranks = {
        image_id: ranking_score(verified[image_id], ranking) for _, image_id, _ in places if image_id in verified
    }
    head = [place for place in places if place[1] in ranks]
    tail = [place for place in places if place[1] not in ranks]
    head.sort(key=lambda p: (-ranks[p[1]], -p[2] if p[2] is not None else 0.0, p[0]))
    return [
        RankedCandidate(image_id, rank, first, score, verified.get(image_id), ranks.get(image_id))
        for rank, (first, image_id, score) in enumerate(head + tail, start=1)
    ]
