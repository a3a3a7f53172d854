"""Verifying pairs and re-ranking shortlists, without a directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from delf_engine.config import (
    Profile,
    RankingConfig,
    RerankingConfig,
    VerificationConfig,
    load_profile,
    parse_config,
)
from delf_engine.engine.parts import calibration_of
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.reranking import RankedCandidate, rerank_batch, rerank_shortlist
from delf_engine.reranking.candidates import Shortlist
from delf_engine.reranking.sources import FeatureSource
from delf_engine.verification import Calibration, Verification, verify_features

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

__all__ = ["rank_shortlist", "rerank", "reranking_options", "verify"]


def verify(
    a: ImageSource | LocalFeatures,
    b: ImageSource | LocalFeatures,
    *,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | None = None,
    box_a: Box | None = None,
    box_b: Box | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
    calibration: Calibration | None = None,
) -> Verification:
    """Verify whether two photographs show the same place.

    Parameters
    ----------
    a, b : image or LocalFeatures
        Path, bytes, PIL image, (H, W, 3) uint8 RGB array, or features made before.
    model : str or path
        Checkpoint, by name or path.
    profile : str, path or None
        Options by the name of a profile or the path of its file; None: the checkpoint's own.
    box_a, box_b : x0, y0, x1, y1 or None
        Regions of interest in pixels, for images.
    seed : int
        Of RANSAC.
    extractor : Extractor or None
        Used instead of loading `model`: give one when verifying many pairs.
    calibration : Calibration or None
        Gives the answer its probability. None takes that of `model`, if it has one for these options and made the
        features here.

    Returns
    -------
    Verification

    Raises
    ------
    ImageError
        If an image cannot be read.
    CheckpointError, ConfigError
        If there is no such model or profile.
    """
    name = profile
    features = []
    for image, box in ((a, box_a), (b, box_b)):
        if isinstance(image, LocalFeatures):
            features.append(image)
            continue
        if extractor is None:
            from delf_engine.extraction import Extractor

            extractor = Extractor.from_pretrained(model, profile=profile)
        if name is None and extractor.info is not None:
            name = extractor.info.profile
        features.append(extractor(image, box=box))
    options = load_profile(name or "default")
    if calibration is None and extractor is not None and extractor.info is not None:
        calibration = calibration_of(model, options, extractor.info.identity)
    return verify_features(
        *features,
        config=options.verification,
        exponent=options.ranking.exponent,
        seed=seed,
        calibration=calibration,
    )


def rerank(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    *,
    profile: str | os.PathLike[str] = "default",
    top_n: int | None = None,
    top_k: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
) -> dict[str, list[RankedCandidate]]:
    """Re-rank the shortlists of any global search by geometric verification.

    Parameters
    ----------
    queries, features : FeatureStore, mapping or function
        `LocalFeatures` by id, of the queries and of the candidates.
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Candidates, best first.
    profile : str or path
        Takes the options of verification, re-ranking and the ranking score from it.
    top_n : int or None
        Candidates to verify for each query; None: as the profile says.
    top_k, seconds
        What may stop a query earlier, see `RerankingConfig`; None: as the profile says.
    seed, workers, progress, checkpoint, calibration
        See `delf_engine.reranking.rerank_batch`, which takes the options one by one.

    Returns
    -------
    dict of query id to list of RankedCandidate
    """
    options = load_profile(profile)
    return rerank_batch(
        queries,
        shortlists,
        features,
        config=reranking_options(options, top_n=top_n, top_k=top_k, seconds=seconds),
        verification=options.verification,
        ranking=options.ranking,
        seed=seed,
        workers=workers,
        progress=progress,
        checkpoint=checkpoint,
        calibration=calibration,
    )


def reranking_options(profile: Profile, **given: float | None) -> RerankingConfig:
    """Return the options of re-ranking of a profile, but for those that are given and not None.

    Raises
    ------
    ConfigError
        If one is out of range.
    """
    values = {**profile.reranking.model_dump(), **{name: v for name, v in given.items() if v is not None}}
    return parse_config(RerankingConfig, values, where="re-ranking")


def rank_shortlist(
    query: LocalFeatures,
    shortlist: Shortlist,
    features: FeatureSource,
    *,
    top_n: int,
    verification: VerificationConfig,
    ranking: RankingConfig,
    seed: int,
    calibration: Calibration | None = None,
) -> list[RankedCandidate]:
    """Verify the first `top_n` of a shortlist and sort them by their ranking score; with 0 keep it as it is."""
    if top_n == 0:
        pairs = [(entry, None) if isinstance(entry, str) else entry for entry in shortlist]
        return [RankedCandidate(name, i, i, score, None, None) for i, (name, score) in enumerate(pairs, start=1)]
    config = RerankingConfig(top_n=top_n)
    return rerank_shortlist(
        query,
        shortlist,
        features,
        config=config,
        verification=verification,
        ranking=ranking,
        seed=seed,
        calibration=calibration,
    )
