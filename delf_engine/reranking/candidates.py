"""What re-ranking takes and gives: entries of a shortlist, and ranked candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

from delf_engine.errors import DataError
from delf_engine.verification import Verification

__all__ = ["Candidate", "RankedCandidate", "Shortlist", "as_candidates", "checked_shortlist"]

#: An image id, alone or with its score in the search that found it (higher is better).
Candidate: TypeAlias = str | tuple[str, float]
#: Candidates of one query, best first.
Shortlist: TypeAlias = Sequence[Candidate]


@dataclass(frozen=True)
class RankedCandidate:
    """One image of a ranking.

    Attributes
    ----------
    id : str
    rank : int
        1 for the best.
    first_rank : int
        Its rank in the shortlist.
    score : float or None
        Its score in the shortlist; None if the shortlist had none.
    verification : Verification or None
        None if the image was not verified: beyond the first `top_n`, or without features.
    ranking_score : float or None
        What it was ranked by, as the rule says; None if the image was not verified.
    """

    id: str
    rank: int
    first_rank: int
    score: float | None
    verification: Verification | None
    ranking_score: float | None

    @property
    def inliers(self) -> int | None:
        """Number of matches that agree on one transform; None if the image was not verified."""
        return None if self.verification is None else self.verification.inliers

    def __str__(self) -> str:
        evidence = "not verified" if self.inliers is None else f"{self.inliers} inliers"
        if self.ranking_score is not None and self.ranking_score != self.inliers:
            evidence += f", ranking score {self.ranking_score:.4g}"
        score = "" if self.score is None else f", score {self.score:.4g}"
        return f"{self.rank}. {self.id}: {evidence} (was {self.first_rank}{score})"

    def to_dict(self, *, with_verification: bool = True) -> dict[str, Any]:
        """Return plain Python values, ready for JSON.

        Parameters
        ----------
        with_verification : bool
            Include the whole verification with its matches, not only the count of inliers.
        """
        out: dict[str, Any] = {
            "id": self.id,
            "rank": self.rank,
            "first_rank": self.first_rank,
            "score": self.score,
            "inliers": self.inliers,
            "ranking_score": self.ranking_score,
        }
        if with_verification:
            out["verification"] = None if self.verification is None else self.verification.to_dict()
        return out


def checked_shortlist(
    shortlist: Iterable[Any], *, query: str, distinct: bool = False
) -> list[tuple[str, float | None]]:
    """Return the candidates of a shortlist as (id, score or None).

    An id that occurs again is dropped: searches over regions or several indexes give an image once for each way
    they found it, and its first place is its best. With `distinct` it is refused.

    Raises
    ------
    DataError
        If it is not a sequence of ids or of (id, finite score), all of one kind. It names `query`.
    """
    if isinstance(shortlist, (str, bytes, Mapping)) or not isinstance(shortlist, Iterable):
        raise DataError(f"shortlist of {query!r} must be a sequence of ids, got {type(shortlist).__name__}")
    out: dict[str, float | None] = {}
    kinds = set()
    for place, entry in enumerate(shortlist, start=1):
        if isinstance(entry, str):
            image_id, score = entry, None
        elif isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], str):
            image_id, score = entry[0], _finite(entry[1])
        else:
            score = math.nan
        if score is not None and math.isnan(score):
            raise DataError(
                f"shortlist of {query!r}, candidate {place}: expected an id or (id, finite score), got {entry!r}"
            )
        kinds.add(score is None)
        if distinct and image_id in out:
            raise DataError(f"shortlist of {query!r}, candidate {place}: {image_id!r} stands in it a second time")
        out.setdefault(image_id, score)
    if len(kinds) > 1:
        raise DataError(f"shortlist of {query!r} has scores for some candidates and none for others")
    return list(out.items())


def as_candidates(entries: Iterable[tuple[str, float | None]]) -> list[Candidate]:
    """Return what `checked_shortlist` gave as a shortlist again: ids alone where there are no scores."""
    return [image_id if score is None else (image_id, score) for image_id, score in entries]


def _finite(value: Any) -> float:
    """Return a number as a float, and NaN for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return math.nan
    return float(value)
