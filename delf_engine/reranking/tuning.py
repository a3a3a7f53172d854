"""The cap of the evidence and the weight of the first score, chosen on queries whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.config import RankingConfig
from delf_engine.errors import ConfigError, DataError
from delf_engine.reranking.candidates import RankedCandidate
from delf_engine.reranking.scoring import blended, default_ranking, ranking_score

__all__ = ["BlendingChoice", "tuned_blending"]

_WEIGHTS = tuple(k / 10 for k in range(11))
_CAPS = (20.0, 35.0, 70.0, 100.0, 200.0)


@dataclass(frozen=True, eq=False)
class BlendingChoice:
    """What `tuned_blending` has found. All figures are mean average precisions (mAP) in per cent.

    Attributes
    ----------
    ranking : RankingConfig
        The rule with the best cap and weight.
    mean_ap : float
        Of that rule, on the queries that it was chosen by: too high for others.
    unseen_mean_ap : float or None
        What tuned values reach on a query that had no part in choosing them: for each query they are chosen by all
        others. None for a single query.
    untuned_mean_ap : float
        Of the rule that was given, as it is.
    weights : (W,) float64
        Ascending.
    caps : (C,) float64
        Ascending.
    table : (W, C) float64
        Of each weight and cap.
    queries : int
        How many the means are over: those with a relevant image.
    """

    ranking: RankingConfig
    mean_ap: float
    unseen_mean_ap: float | None
    untuned_mean_ap: float
    weights: npt.NDArray[np.float64]
    caps: npt.NDArray[np.float64]
    table: npt.NDArray[np.float64]
    queries: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "ranking": self.ranking.model_dump(mode="json"),
            "mean_ap": self.mean_ap,
            "unseen_mean_ap": self.unseen_mean_ap,
            "untuned_mean_ap": self.untuned_mean_ap,
            "weights": self.weights.tolist(),
            "caps": self.caps.tolist(),
            "table": self.table.tolist(),
            "queries": self.queries,
        }


def tuned_blending(
    rankings: Mapping[str, Sequence[RankedCandidate]],
    relevant: Mapping[str, Collection[str]],
    *,
    weights: Iterable[float] = _WEIGHTS,
    caps: Iterable[float] = _CAPS,
    ranking: RankingConfig | None = None,
    ignored: Mapping[str, Collection[str]] | None = None,
) -> BlendingChoice:
    """Choose `RankingConfig.first_weight` and `cap` by the mean average precision, from finished verifications.

    Nothing is verified again: every weight and cap ranks the same verifications. Tune on other queries than those
    that the choice is then used for; `BlendingChoice.unseen_mean_ap` says what to expect of those, by leaving out
    one query at a time.

    The average precision of a query is the mean, over its relevant images, of the precision at the rank of each; 0
    for one that is not in the ranking.

    Parameters
    ----------
    rankings : mapping of query id to sequence of RankedCandidate
        As `rerank_batch` returns them, from shortlists with scores and without a `top_k`.
    relevant : mapping of query id to collection of ids
        What each query should find; queries that have nothing to find are left out of all means.
    weights : iterable of float
        0 to 1, at least one.
    caps : iterable of float
        Above 0, at least one; in units of the ranking score (inliers, for the default rule).
    ranking : RankingConfig or None
        The rule that the two are added to; its own cap and weight count for `untuned_mean_ap` only. None takes
        that of the default profile.
    ignored : mapping of query id to collection of ids or None
        Images that count neither for nor against a ranking, taken out of it (the junk of the revisited protocol).

    Returns
    -------
    BlendingChoice
        Of equally good choices that of the smaller weight, then of the smaller cap. It does not depend on the
        order of queries, weights or caps.

    Raises
    ------
    DataError
        If a query of `rankings` is missing in `relevant`, has candidates without first scores or none that is
        verified, or there is no query with something to find.
    MismatchError
        If the rule needs similarities and the verifications have summed them with another exponent.
    ConfigError
        If a weight or a cap is out of range, or there is none.
    """
    rule = default_ranking() if ranking is None else ranking
    tried_weights = _checked(weights, "weights", 1.0, "numbers from 0 to 1")
    tried_caps = _checked(caps, "caps", math.inf, "finite numbers above 0")
    if tried_caps[0] == 0:
        raise ConfigError("caps must be finite numbers above 0, got 0")
    queries = _evidence_of(rankings, relevant, {} if ignored is None else ignored, rule)
    choices = [
        rule.model_copy(update={"first_weight": weight, "cap": cap})
        for weight in tried_weights
        for cap in tried_caps
    ]
    found = [[_average_precision(query, choice) for query in queries] for choice in choices]
    best = _best(found)
    return BlendingChoice(
        ranking=choices[best],
        mean_ap=_mean(found[best]),
        unseen_mean_ap=_mean(_left_out(found)) if len(queries) > 1 else None,
        untuned_mean_ap=_mean([_average_precision(query, rule) for query in queries]),
        weights=_frozen(tried_weights),
        caps=_frozen(tried_caps),
        table=_frozen([_mean(row) for row in found]).reshape(len(tried_weights), len(tried_caps)),
        queries=len(queries),
    )


class _Entry(NamedTuple):
    """One candidate: what every rule ranks it by, and whether it should be found."""

    evidence: float | None  # None: not verified
    score: float
    first_rank: int
    relevant: bool


class _Query(NamedTuple):
    entries: list[_Entry]
    relevant: int  # in the ranking or not


def _evidence_of(
    rankings: Mapping[str, Sequence[RankedCandidate]],
    relevant: Mapping[str, Collection[str]],
    ignored: Mapping[str, Collection[str]],
    rule: RankingConfig,
) -> list[_Query]:
    """Return, for the queries that have something to find, the candidates with their uncapped evidence."""
    uncapped = rule.model_copy(update={"cap": None, "first_weight": 0.0})
    queries = []
    for query, found in rankings.items():
        if query not in relevant:
            raise DataError(
                f"query {query!r}: relevant does not say what it should find; an empty set for nothing"
            )
        out = _ids(ignored.get(query, ()), query, "ignored")
        wanted = _ids(relevant[query], query, "relevant") - out
        if not wanted:
            continue
        for c in found:
            if c.score is None:
                raise DataError(
                    f"query {query!r}: {c.id!r} has no first score to blend in; re-rank a shortlist of (id, score)"
                )
        if found and all(c.verification is None for c in found):
            raise DataError(
                f"query {query!r}: no candidate is verified; give rankings as rerank_batch returns them, or leave "
                "the query out"
            )
        entries = [
            _Entry(
                None if c.verification is None else ranking_score(c.verification, uncapped),
                0.0 if c.score is None else c.score,
                c.first_rank,
                c.id in wanted,
            )
            for c in found
            if c.id not in out
        ]
        queries.append(_Query(entries, len(wanted)))
    if not queries:
        raise DataError(f"none of the {len(rankings)} queries has an image to find: there is nothing to tune by")
    return queries


def _average_precision(query: _Query, rule: RankingConfig) -> float:
    """Return the average precision of a query ranked by a rule, in per cent."""

    def place(entry: _Entry) -> tuple[bool, float, float, int]:  # as `rank_entries` orders them
        if entry.evidence is None:
            return True, 0.0, 0.0, entry.first_rank
        return False, -blended(entry.evidence, rule, entry.score), -entry.score, entry.first_rank

    ordered = sorted(query.entries, key=place)
    ranks = [rank for rank, entry in enumerate(ordered, start=1) if entry.relevant]
    return 100 * math.fsum(k / rank for k, rank in enumerate(ranks, start=1)) / query.relevant


def _best(found: Sequence[Sequence[float]]) -> int:
    """Return the number of the choice with the highest sum; of equal ones the first.

    Sums are correctly rounded, so that the order of the queries does not matter.
    """
    sums = [math.fsum(row) for row in found]
    return sums.index(max(sums))


def _left_out(found: Sequence[Sequence[float]]) -> list[float]:
    """Return the average precision of each query under the choice that all others make."""
    values = []
    for q in range(len(found[0])):
        best = _best([[*row[:q], *row[q + 1 :]] for row in found])
        values.append(found[best][q])
    return values


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _frozen(values: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array


def _ids(values: Any, query: str, what: str) -> set[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"{what} of query {query!r} must be a collection of ids, got {values!r}")
    return set(values)


def _checked(values: Any, what: str, most: float, expected: str) -> list[float]:
    """Return different numbers from 0 to `most`, ascending."""
    try:
        given = sorted({float(value) for value in values})
    except (TypeError, ValueError):
        given = []
    if not given or not all(0 <= value <= most and value < math.inf for value in given):
        raise ConfigError(f"{what} must be {expected}, at least one, got {values!r}")
    return given
