"""Pairs of images matched once and verified many times: each answer is the one `verify_features` gives."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed, parallel_config
from rich.console import Console
from rich.progress import track

from benchmarks.revisited.ranking_rules import Pass
from delf_engine import LocalFeatures, verify_features
from delf_engine.config import RankingConfig, VerificationConfig
from delf_engine.verification import MatchedPair, Prepared, Verification, match_prepared
from delf_engine.verification.geometry import occupied_bins, pixel_frame
from delf_engine.verification.models import estimate
from delf_engine.verification.result import similarity_sum

__all__ = ["Framed", "framed_matches", "is_random", "match", "verified", "verify_all_ways"]

Float64 = npt.NDArray[np.float64]
#: What of a configuration decides the tentative matches.
_MATCHING = ("mutual", "ratio", "max_distance", "precision")


class Framed(NamedTuple):
    """Tentative matches in the pixels that the residual counts in: what an estimator takes.

    Attributes
    ----------
    points : (N, 2) float64, (N, 2) float64
        x, y in A and in B.
    scales : (N,) float64, (N,) float64
    """

    points: tuple[Float64, Float64]
    scales: tuple[Float64, Float64]


def match(a: Prepared, b: Prepared, config: VerificationConfig) -> MatchedPair:
    """Match as a configuration says."""
    return match_prepared(a, b, mutual=config.mutual, ratio=config.ratio, max_distance=config.max_distance)


def framed_matches(a: LocalFeatures, b: LocalFeatures, matched: MatchedPair, reference_size: int | None) -> Framed:
    """Return the tentative matches in pixels of images shrunk to `reference_size`."""
    sides = []
    for features, rows in zip((a, b), matched.putative.pairs.T, strict=True):
        frame = pixel_frame(features.image_size, reference_size)
        points = features.keypoints[rows].astype(np.float64) * float(frame[0, 0]) + float(frame[0, 2])
        sides.append((points, features.scales[rows] * float(frame[0, 0])))
    return Framed((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))


def verified(
    framed: Framed,
    matched: MatchedPair,
    config: VerificationConfig,
    *,
    similarity: float,
    exponent: float,
    seed: int,
) -> Verification:
    """Return what `verify_features` does, but for the transform and the error, which are left out.

    Parameters
    ----------
    framed : Framed
    matched : MatchedPair
    config : VerificationConfig
    similarity : float
        Sum of similarity^exponent over the mutual matches: the same for all configurations of one matching.
    exponent : float
    seed : int
    """
    fit = estimate(
        config.model,
        *framed.points,
        threshold=config.residual_px,
        max_iterations=config.max_iterations,
        confidence=config.confidence,
        seed=seed,
        estimator=config.estimator,
        scales=framed.scales,
        similarities=matched.putative.similarities,
    )
    inliers = np.zeros(len(framed.points[0]), bool) if fit is None else fit.inliers
    return Verification(
        model=config.model,
        estimator=config.estimator,
        transform=None,
        matches=matched.putative.pairs[inliers],
        similarities=matched.putative.similarities[inliers],
        effective_inliers=min(occupied_bins(side[inliers], config.residual_px) for side in framed.points),
        putative=len(inliers),
        residual_px=config.residual_px,
        reference_size=config.reference_size,
        min_inliers=config.min_inliers,
        similarity=similarity,
        exponent=exponent,
    )


def is_random(config: VerificationConfig) -> bool:
    """Tell whether the answers depend on the seed."""
    return config.estimator != "exhaustive"


def verify_all_ways(
    queries: Mapping[str, LocalFeatures],
    gallery: Mapping[str, LocalFeatures],
    configs: Mapping[str, VerificationConfig],
    *,
    ranking: RankingConfig,
    seeds: int,
    workers: int,
    title: str,
) -> dict[str, Pass]:
    """Verify every query with every image by each configuration; those that match alike share their matches.

    Parameters
    ----------
    configs : mapping of name to VerificationConfig
        Of equal ones only the first is measured, and stands for all.
    ranking : RankingConfig
        Its exponent is that of the sums.
    seeds : int
        From 0 on, for configurations that draw at random; one for the others.
    workers : int
        Processes. Seconds a pair are those of one of them.

    Returns
    -------
    dict of name to Pass
    """
    different = list(dict.fromkeys(_key(config) for config in configs.values()))
    by_key = {_key(config): config for config in configs.values()}
    asked = [by_key[key] for key in different]
    images = list(gallery.values())
    jobs = (delayed(_one_query)(q, images, asked, ranking.exponent, seeds) for q in queries.values())
    with parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        results = Parallel(return_as="generator", batch_size=1, max_nbytes=None, pre_dispatch=workers)(jobs)
        done = list(track(results, title, total=len(queries), console=Console(stderr=True)))
    passes = {}
    for place, (key, config) in enumerate(zip(different, asked, strict=True)):
        runs = [
            {
                query: dict(zip(gallery, found[place][seed], strict=True))
                for query, (found, _) in zip(queries, done, strict=True)
            }
            for seed in range(seeds if is_random(config) else 1)
        ]
        seconds = sum(times[place] for _, times in done) / (len(queries) * len(images))
        passes[key] = Pass(runs, ranking, seconds)
    return {name: passes[_key(config)] for name, config in configs.items()}


def _key(config: VerificationConfig) -> str:
    # From how many inliers on it is the same place changes no ranking, and samples mean nothing to who draws none.
    ignored = {"min_inliers"} if is_random(config) else {"min_inliers", "max_iterations", "confidence"}
    return config.model_dump_json(exclude=ignored)


def _one_query(
    query: LocalFeatures,
    images: Sequence[LocalFeatures],
    configs: Sequence[VerificationConfig],
    exponent: float,
    seeds: int,
) -> tuple[list[list[list[Verification]]], list[float]]:
    """Return by configuration: by seed the verifications of all images; and the seconds of one seed."""
    found: list[list[list[Verification]]] = [[[] for _ in range(seeds if is_random(c) else 1)] for c in configs]
    seconds = [0.0] * len(configs)
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, config in enumerate(configs):
        groups.setdefault(tuple(getattr(config, name) for name in _MATCHING), []).append(place)
    for config in configs:
        verify_features(query, query, config=config)  # compiles, before anything is timed
    for places in groups.values():
        first = configs[places[0]]
        prepared = Prepared(query.descriptors, "A", first.precision)
        for image in images:
            start = time.perf_counter()
            matched = match(prepared, Prepared(image.descriptors, "B", first.precision), first)
            similarity = similarity_sum(matched.mutual_similarities, exponent)
            matching = time.perf_counter() - start
            for place in places:
                config = configs[place]
                start = time.perf_counter()
                framed = framed_matches(query, image, matched, config.reference_size)
                for seed, out in enumerate(found[place]):
                    out.append(
                        verified(framed, matched, config, similarity=similarity, exponent=exponent, seed=seed)
                    )
                seconds[place] += matching + (time.perf_counter() - start) / len(found[place])
    return found, seconds
