"""Every pair of query and image verified once, and every ranking rule measured on the same verifications."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from delf_engine import LocalFeatures
from delf_engine.config import RankingConfig, RerankingConfig, VerificationConfig
from delf_engine.evaluation import SETUPS, GroundTruth, evaluate
from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap
from delf_engine.reranking import RerankOptions, rank_verified, rerank_batch
from delf_engine.verification import Verification

__all__ = ["RULES", "Pass", "Rule", "compare", "ranked_by_rules", "ranker_of", "row_of", "rule_of", "verify_all"]

Rule = Literal["inliers", "weighted", "similarity"]
RULES: tuple[Rule, ...] = ("inliers", "weighted", "similarity")

_BLEND = 0.3  # of all mutual matches, in "weighted"

Scored = Mapping[str, Sequence[tuple[str, float]]]
#: From a query's name and the images that the protocol takes out to a ranking of names.
Ranker = Callable[[str, set[str]], Sequence[str]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """All pairs of queries and images, verified with several seeds.

    Attributes
    ----------
    seeds : sequence of mappings
        For each seed, by query and image, the verification.
    ranking : RankingConfig
        Its exponent is that of the verifications.
    seconds_a_pair : float
        As the maker of the pass measures it: `verify_all` by the clock on all cores.
    """

    seeds: Sequence[Mapping[str, Mapping[str, Verification]]]
    ranking: RankingConfig
    seconds_a_pair: float

    def first_scores(self) -> Scored:
        """Return pairs by their number of putative matches, most first: a first order where there is no index."""
        scores = {
            q: [(name, float(v.putative)) for name, v in found.items()] for q, found in self.seeds[0].items()
        }
        return {query: sorted(found, key=lambda pair: -pair[1]) for query, found in scores.items()}


def verify_all(
    queries: Mapping[str, LocalFeatures],
    gallery: Mapping[str, LocalFeatures],
    *,
    verification: VerificationConfig,
    ranking: RankingConfig,
    seeds: int,
    title: str,
) -> Pass:
    """Verify every query with every image, once for each seed."""
    lists = {query: list(gallery) for query in queries}
    found = []
    start = time.perf_counter()
    with Progress(console=Console(stderr=True)) as bar:
        for seed in range(seeds):
            task = bar.add_task(f"{title}: verifying, seed {seed}")
            hits = rerank_batch(
                queries,
                lists,
                gallery,
                RerankOptions(RerankingConfig(top_n=len(gallery)), verification, ranking, seed),
                progress=lambda done, total, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
            )
            found.append(
                {
                    query: {hit.id: hit.verification for hit in ranked if hit.verification is not None}
                    for query, ranked in hits.items()
                }
            )
    seconds = time.perf_counter() - start
    # The order of the gallery, not of a ranking: ties are broken by nothing that a rule has decided.
    ordered = [{q: {g: by_id[g] for g in gallery} for q, by_id in of_seed.items()} for of_seed in found]
    return Pass(ordered, ranking, seconds / (seeds * len(queries) * len(gallery)))


def ranked_by_rules(first: Scored, done: Pass, truth: GroundTruth, *, top_n: int | None = None) -> dict[str, Row]:
    """Measure each rule on the same verifications.

    Parameters
    ----------
    first : mapping of query to sequence of (id, score)
        Candidates, best first; their order breaks ties.
    done : Pass
    truth : GroundTruth
    top_n : int or None
        Candidates that count as verified, the first of those that the protocol leaves in, as published pipelines
        do; None: all.
    """
    rows: dict[str, Row] = {}
    pairs = len(next(iter(first.values()))) if top_n is None else top_n
    for score in RULES:
        rankers = [ranker_of(first, found, rule_of(done.ranking, score), top_n) for found in done.seeds]
        rows[score] = row_of(truth, rankers, pairs * done.seconds_a_pair)
    return rows


def rule_of(ranking: RankingConfig, rule: Rule) -> RankingConfig:
    """Return one of `RULES` with the exponent of a profile."""
    return ranking.model_copy(update={"score": rule, "blend": _BLEND if rule == "weighted" else 0.0})


def ranker_of(
    first: Scored,
    found: Mapping[str, Mapping[str, Verification]],
    ranking: RankingConfig,
    top_n: int | None = None,
) -> Ranker:
    """Return what ranks by one rule and one seed's verifications; parameters are those of `ranked_by_rules`."""

    def rank(query: str, junk: set[str]) -> list[str]:
        candidates = [entry for entry in first[query] if entry[0] not in junk]
        verified = {image_id: found[query][image_id] for image_id, _ in candidates[:top_n]}
        return [hit.id for hit in rank_verified(candidates, verified, ranking=ranking, query=query)]

    return rank


def row_of(truth: GroundTruth, rankers: Sequence[Ranker], seconds: float, *, samples: int = 2000) -> Row:
    """Return the figures of one method: means over its rankers (one a seed), bootstrap intervals over queries."""
    row: Row = {"seconds_per_query": seconds, "seeds": len(rankers)}
    for setup in SETUPS:
        junk = [{truth.names[i] for i in indices} for indices in truth.junk_of(setup)]
        runs = [
            evaluate(
                [ranker(name, out) for name, out in zip(truth.query_names, junk, strict=True)], truth, setup=setup
            )
            for ranker in rankers
        ]
        precision = np.mean([run.average_precision for run in runs], axis=0)
        interval = paired_bootstrap(precision, 0 * precision, samples=samples)
        row[setup] = {
            "mean_ap": interval.difference,
            "interval_95": [interval.low, interval.high],
            "spread": float(np.std([run.mean_ap for run in runs])),
            "average_precision": dict(zip(truth.query_names, _listed(precision), strict=True)),
        }
    return row


def compare(first: Row, second: Row) -> dict[str, Comparison]:
    """Return by set-up how much better the first row is, over the same queries."""

    def figures(row: Row, setup: str) -> list[float]:
        return [np.nan if value is None else value for value in row[setup]["average_precision"].values()]

    return {
        setup: paired_bootstrap(figures(first, setup), figures(second, setup), samples=2000) for setup in SETUPS
    }


def _listed(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values.tolist()]
