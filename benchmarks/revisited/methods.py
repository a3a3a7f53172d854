"""Candidates measured as they are, and with the first of them verified; each set-up of the protocol apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.revisited.candidates import Candidates, Gallery
from benchmarks.revisited.features import FeatureFile, key_of
from benchmarks.revisited.stages import Stages
from delf_engine.config import Profile
from delf_engine.evaluation import SETUPS, Evaluation, GroundTruth, Setup, evaluate, evaluate_setups
from delf_engine.reranking import RankedCandidate, RerankOptions, rank_verified, rerank_batch
from delf_engine.verification import Verification

__all__ = ["Measured", "unverified", "verified"]

Int32: TypeAlias = npt.NDArray[np.int32]

_SHOWN = 10  # results of each query in the report


@dataclass(frozen=True)
class Measured:
    """The figures of one method.

    Attributes
    ----------
    name : str
    parent : str or None
        The method whose candidates it verifies.
    evaluations : dict of set-up to Evaluation
    seconds_per_query : float or None
    shown : dict of query to list
        The first results as a user sees them, nothing taken out, with what the ground truth says of each.
    missed : dict of query to dict
        The first positive below those results, and its rank among all; no entry where there is none.
    inliers : dict of "positives" and "negatives" to list of int, or None
        Of the pairs verified for Medium.
    """

    name: str
    parent: str | None
    evaluations: Mapping[Setup, Evaluation]
    seconds_per_query: float | None
    shown: Mapping[str, list[dict[str, Any]]]
    missed: Mapping[str, dict[str, Any]]
    inliers: Mapping[str, list[int]] | None = None


def unverified(candidates: Candidates, truth: GroundTruth) -> Measured:
    """Measure candidates in their own order."""
    shown = {
        query: [
            {"id": truth.names[i], "score": _score(candidates, q, place), "inliers": None, "label": label}
            for place, (i, label) in enumerate(
                zip(order[:_SHOWN].tolist(), _labels(truth, q, order[:_SHOWN]), strict=True)
            )
        ]
        for q, (query, order) in enumerate(zip(truth.query_names, candidates.order, strict=True))
    }
    evaluations = evaluate_setups(candidates.order, truth)
    missed = _missed(truth, candidates.order)
    return Measured(candidates.name, None, evaluations, candidates.seconds_per_query, shown, missed)


def verified(
    candidates: Candidates,
    truth: GroundTruth,
    queries: FeatureFile,
    gallery: Gallery,
    profile: Profile,
    *,
    top_n: int,
    junk: str,
    journals: Path,
    seed: int,
    workers: int | None,
    stages: Stages,
) -> Measured:
    """Verify the first candidates of every set-up and measure the new order.

    Each pair is verified once, whatever set-ups want it. Finished queries are kept in a journal.

    Parameters
    ----------
    junk : "before" or "after"
        When what a set-up ignores is taken out: before the first `top_n` are, as published pipelines do, or after:
        then it takes places of those that are verified.
    """
    name = f"{candidates.name}, first {top_n} verified"
    cuts = {setup: _Cut(candidates, truth, truth.junk_of(setup), top_n, junk) for setup in SETUPS}
    whole = _Cut(candidates, truth, [np.empty(0, np.int64)] * len(truth), top_n, "after")
    wanted = {
        query: list(dict.fromkeys(i for cut in (*cuts.values(), whole) for i in cut.heads[q].tolist()))
        for q, query in enumerate(truth.query_names)
    }
    lists = {query: [truth.names[i] for i in found] for query, found in wanted.items()}
    found, seconds = _verify(name, lists, queries, gallery, profile, journals, seed, workers, stages)
    evaluations: dict[Setup, Evaluation] = {}
    mean_head = 0.0
    for setup, cut in cuts.items():
        rankings = [cut.ranking(q, found[query], profile) for q, query in enumerate(truth.query_names)]
        evaluations[setup] = evaluate(rankings, truth, setup=setup)
        mean_head += float(np.mean([len(head) for head in cut.heads])) / len(cuts)
    per_query = (
        None if candidates.seconds_per_query is None else candidates.seconds_per_query + seconds * mean_head
    )
    return Measured(
        name,
        candidates.name,
        evaluations,
        per_query,
        {query: _shown(whole, truth, q, found[query], profile) for q, query in enumerate(truth.query_names)},
        _missed(truth, [whole.ranking(q, found[query], profile) for q, query in enumerate(truth.query_names)]),
        _inliers(cuts["medium"], truth, found),
    )


class _Cut:
    """What of the candidates is verified where images of the junk do not count.

    Attributes
    ----------
    heads : list of int32 arrays
        Images that are verified, for each query.
    """

    def __init__(
        self,
        candidates: Candidates,
        truth: GroundTruth,
        out: Sequence[npt.NDArray[np.int64]],
        top_n: int,
        junk: str,
    ) -> None:
        self._candidates = candidates
        self._truth = truth
        self._out = out
        self._first: list[npt.NDArray[np.int64]] = []  # places of the heads
        for q, order in enumerate(candidates.order):
            if junk == "before":
                some = order[: top_n + len(out[q])]  # no more than the junk can push them down
                self._first.append(np.flatnonzero(~np.isin(some, out[q]))[:top_n])
            else:
                self._first.append(np.flatnonzero(~np.isin(order[:top_n], out[q])))
        self.heads = [order[first] for order, first in zip(candidates.order, self._first, strict=True)]

    def head(self, q: int, found: Mapping[str, Verification], profile: Profile) -> list[RankedCandidate]:
        """Return the verified images of a query in their new order."""
        names = [self._truth.names[i] for i in self.heads[q].tolist()]
        scores = None if self._candidates.scores is None else self._candidates.scores[q][self._first[q]].tolist()
        entries: list[Any] = names if scores is None else list(zip(names, scores, strict=True))
        known = {name: found[name] for name in names if name in found}
        return rank_verified(entries, known, ranking=profile.ranking, query=self._truth.query_names[q])

    def ranking(self, q: int, found: Mapping[str, Verification], profile: Profile) -> Int32:
        """Return the whole new order of a query's images, without the junk."""
        order = self._candidates.order[q]
        place = {self._truth.names[i]: i for i in self.heads[q].tolist()}
        head = np.array([place[hit.id] for hit in self.head(q, found, profile)], np.int32)
        gone = np.zeros(len(self._truth.names), np.bool_)
        gone[self._out[q]] = True
        gone[head] = True
        return np.concatenate([head, order[~gone[order]]])


def _verify(
    name: str,
    lists: Mapping[str, Sequence[str]],
    queries: FeatureFile,
    gallery: Gallery,
    profile: Profile,
    journals: Path,
    seed: int,
    workers: int | None,
    stages: Stages,
) -> tuple[Mapping[str, Mapping[str, Verification]], float]:
    """Return the verifications by query and image, and the seconds a pair."""
    total = sum(map(len, lists.values()))
    options = (profile.verification.model_dump_json(), str(profile.ranking.exponent), str(seed))
    features = key_of(queries.store.model, *(f"{query} {names}" for query, names in lists.items()))
    key = key_of(*options, features)
    journals.mkdir(parents=True, exist_ok=True)
    journal = journals / f"{key}.journal"
    done = stages.items(key) if journal.is_file() else 0
    with stages.stage(name, key, total, cached=done) as clock:

        def progress(now: int, _: int) -> None:
            nonlocal done  # what the journal holds is reported first, and is counted already
            clock.advance(max(0, now - done))
            done = max(done, now)

        hits = rerank_batch(
            queries,
            lists,
            gallery,
            RerankOptions.of(profile, top_n=max(map(len, lists.values())), seed=seed, workers=workers),
            progress=progress,
            checkpoint=journal,
        )
    found = {
        query: {hit.id: hit.verification for hit in ranked if hit.verification is not None}
        for query, ranked in hits.items()
    }
    return found, clock.stage.seconds / max(1, total)


def _inliers(
    cut: _Cut, truth: GroundTruth, found: Mapping[str, Mapping[str, Verification]]
) -> dict[str, list[int]]:
    """Return the counts of inliers of pairs that show one place, and of pairs that do not."""
    counts: dict[str, list[int]] = {"positives": [], "negatives": []}
    for q, (query, positives) in enumerate(zip(truth.query_names, truth.positives_of("medium"), strict=True)):
        head = cut.heads[q]
        for i, right in zip(head.tolist(), np.isin(head, positives), strict=True):
            verification = found[query].get(truth.names[i])
            if verification is not None:
                counts["positives" if right else "negatives"].append(verification.inliers)
    return counts


def _shown(
    cut: _Cut, truth: GroundTruth, q: int, found: Mapping[str, Verification], profile: Profile
) -> list[dict[str, Any]]:
    hits = cut.head(q, found, profile)[:_SHOWN]
    place = {truth.names[i]: i for i in cut.heads[q].tolist()}
    labels = _labels(truth, q, np.array([place[hit.id] for hit in hits], np.int32))
    return [
        {"id": hit.id, "score": hit.score, "inliers": hit.inliers, "label": label}
        for hit, label in zip(hits, labels, strict=True)
    ]


def _missed(truth: GroundTruth, rankings: Sequence[Int32]) -> dict[str, dict[str, Any]]:
    """Return the first positive of Medium below the results that are shown, by query."""
    out: dict[str, dict[str, Any]] = {}
    for query, order, positives in zip(truth.query_names, rankings, truth.positives_of("medium"), strict=True):
        places = _SHOWN + np.flatnonzero(np.isin(order[_SHOWN:], positives))
        absent = positives[~np.isin(positives, order)]
        if len(places):
            out[query] = {"id": truth.names[order[places[0]]], "rank": int(places[0]) + 1}
        elif len(absent):
            out[query] = {"id": truth.names[absent[0]], "rank": None}
    return out


def _labels(truth: GroundTruth, q: int, order: Int32) -> list[str]:
    """Return what the ground truth says of images: easy, hard, junk or negative."""
    kinds = {
        i: kind
        for kind, lists in (("easy", truth.easy), ("hard", truth.hard), ("junk", truth.junk))
        for i in lists[q].tolist()
    }
    return [kinds.get(i, "negative") for i in order.tolist()]


def _score(candidates: Candidates, q: int, place: int) -> float | None:
    return None if candidates.scores is None else float(candidates.scores[q][place])
