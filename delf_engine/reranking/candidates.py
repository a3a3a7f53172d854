"""What re-ranking takes and gives: features by id, shortlists, and candidates ranked by the ranking score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, Protocol, TypeAlias, cast

from delf_engine.config import RankingConfig
from delf_engine.errors import ConfigError, DataError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.verification import Verification
from delf_engine.verification.result import Verdict

#: An image id, alone or with its score in the search that found it (higher is better).
Candidate: TypeAlias = str | tuple[str, float]
#: Candidates of one query, best first.
Shortlist: TypeAlias = Sequence[Candidate]
#: The same, as `checked_shortlist` returns them.
Entries: TypeAlias = Sequence[tuple[str, float | None]]
#: From an id to features, or to None for one that is not there.
Reader: TypeAlias = Callable[[str], LocalFeatures | None]


class _Gets(Protocol):
    def get(self, image_id: str, /) -> Any: ...


#: A feature store, a mapping, or a function from id to features. An id it does not have: `UnknownIdError`,
#: `KeyError` or None.
FeatureSource: TypeAlias = Reader | Mapping[str, LocalFeatures] | _Gets


class Verifies(Protocol):
    """A source of features that verifies pairs where they lie."""

    def verify_here(
        self, queries: Mapping[str, LocalFeatures], heads: Mapping[str, Sequence[str]], options: Any, /
    ) -> Mapping[str, Mapping[str, Verification]]:
        """Return for each query what is found of it and those of its candidates that are there, by their ids."""


def verifier_there(source: FeatureSource) -> Verifies | None:
    """Return a source that verifies by itself; None for one that features are read from."""
    return cast("Verifies", source) if hasattr(source, "verify_here") else None


def reader(source: FeatureSource) -> Reader:
    """Return a function from id to features, or to None for an id that `source` does not have.

    A `ConfigError` if `source` is nothing that features can be read from, at once; or gives something else, on
    reading.
    """
    get: Any = source if callable(source) else getattr(source, "get", None)
    if get is None:
        raise ConfigError(
            f"features must be a store, a mapping or a function from id to features, got {type(source).__name__}"
        )

    def read(image_id: str) -> LocalFeatures | None:
        try:
            features = get(image_id)
        except (KeyError, UnknownIdError):
            return None
        if features is not None and not isinstance(features, LocalFeatures):
            raise ConfigError(f"the source of features gave {type(features).__name__} for {image_id!r}")
        return features

    return read


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

    @property
    def verdict(self) -> Verdict | None:
        """What is said of the query and the image; None if the image was not verified."""
        return None if self.verification is None else self.verification.verdict

    def __str__(self) -> str:
        evidence = "not verified" if self.inliers is None else f"{self.inliers} inliers, {self.verdict}"
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
            "verdict": self.verdict,
            "ranking_score": self.ranking_score,
        }
        if with_verification:
            out["verification"] = None if self.verification is None else self.verification.to_dict()
        return out


def checked_shortlist(
    shortlist: Iterable[Any], *, query: str, distinct: bool = False, distances: bool = False
) -> list[tuple[str, float | None]]:
    """Return the candidates of a shortlist as (id, score or None); distances get the opposite sign.

    An id that occurs again is dropped: searches over regions or several indexes give an image once for each way
    they found it, and its first place is its best. With `distinct` it is refused. A `DataError`, which names
    `query`, if it is not a sequence of ids or of (id, finite score), all of one kind.
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
        out.setdefault(image_id, score if score is None or not distances else 0.0 - score)
    if len(kinds) > 1:
        raise DataError(f"shortlist of {query!r} has scores for some candidates and none for others")
    return list(out.items())


def check_best_first(query: str, entries: Entries, *, distances: bool) -> None:
    """Refuse, with a `DataError`, candidates of `checked_shortlist` whose scores rise: so do distances, unsaid."""
    scores = [score for _, score in entries if score is not None]
    for place, (before, after) in enumerate(pairwise(scores), start=2):
        if after > before:
            said, hint = (
                f"score rises from {before:g} to {after:g}",
                "for distances, of which lower is better, say",
            )
            if distances:
                said, hint = f"distance falls from {-before:g} to {-after:g}", "for scores leave out"
            raise DataError(
                f"results of query {query!r} are not best first: the {said} at place {place}; {hint} "
                "distances=True (--distances), or sort them"
            )


def as_candidates(entries: Entries) -> list[Candidate]:
    """Return what `checked_shortlist` gave as a shortlist again: ids alone where there are no scores."""
    return [image_id if score is None else (image_id, score) for image_id, score in entries]


def _finite(value: Any) -> float:
    """Return a number as a float, and NaN for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return math.nan
    return float(value)


def ranking_score(verification: Verification, ranking: RankingConfig) -> float:
    """Return what a verified candidate is ranked by; more is better.

    Inlier counts are the rule of DELF (Noh et al. 2017); sums of cubed similarities are the selectivity of ASMK
    (Tolias, Avrithis, Jégou 2016), here of exact nearest neighbours.

    Parameters
    ----------
    verification : Verification
    ranking : RankingConfig
        The rule.

    Raises
    ------
    MismatchError
        If the rule needs similarities and the verification has summed them with another exponent.
    """
    counts = {"inliers": float(verification.inliers), "effective": float(verification.effective_inliers)}
    is_count = ranking.score in counts
    if (ranking.blend or not is_count) and verification.exponent != ranking.exponent:
        raise MismatchError(
            f"the verification sums similarity^{verification.exponent:g}, the ranking asks for "
            f"similarity^{ranking.exponent:g}; verify with exponent={ranking.exponent:g}"
        )
    evidence = verification.similarity
    if ranking.score != "similarity":
        base = counts[ranking.score] if is_count else verification.inlier_similarity
        evidence = base + ranking.blend * verification.similarity
    return evidence if ranking.cap is None else min(evidence, ranking.cap)


def rank_verified(
    shortlist: Shortlist,
    verified: Mapping[str, Verification],
    *,
    ranking: RankingConfig,
    query: str = "query",
    distances: bool = False,
) -> list[RankedCandidate]:
    """Rank candidates that are verified already: the same verifications serve any number of rules.

    Parameters
    ----------
    shortlist : sequence of id or of (id, score)
        Candidates, best first. An id that occurs again is dropped.
    verified : mapping of id to Verification
    ranking : RankingConfig
    query : str
        Named in errors.
    distances : bool
        Scores are distances, of which lower is better: they get the opposite sign.

    Returns
    -------
    list of RankedCandidate
        Those in `verified` by their ranking score, equal ones in their first order; all others follow in theirs.

    Raises
    ------
    DataError
        If the shortlist has the wrong shape or a score that is not finite.
    MismatchError
        If a verification has another exponent than the rule needs.
    """
    return rank_entries(checked_shortlist(shortlist, query=query, distances=distances), verified, ranking)


def rank_entries(
    entries: Entries, verified: Mapping[str, Verification], ranking: RankingConfig
) -> list[RankedCandidate]:
    """Do what `rank_verified` does, for a shortlist that `checked_shortlist` has returned."""
    places = [(first, image_id, score) for first, (image_id, score) in enumerate(entries, start=1)]
    ranks = {
        image_id: ranking_score(verified[image_id], ranking) for _, image_id, _ in places if image_id in verified
    }
    head = [place for place in places if place[1] in ranks]
    tail = [place for place in places if place[1] not in ranks]
    head.sort(key=lambda place: -ranks[place[1]])  # stable: of equal ones the first
    return [
        RankedCandidate(image_id, rank, first, score, verified.get(image_id), ranks.get(image_id))
        for rank, (first, image_id, score) in enumerate(head + tail, start=1)
    ]
