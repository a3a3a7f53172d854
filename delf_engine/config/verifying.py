"""Options of verification and re-ranking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from delf_engine.config.base import Config, Count, Positive

__all__ = ["RankingConfig", "RerankingConfig", "VerificationConfig"]


class VerificationConfig(Config):
    """How two images are matched and verified.

    Attributes
    ----------
    model : "affine", "homography" or "fundamental"
        Geometric model fitted to the matches.
    estimator : "ransac", "exhaustive", "magsac", "accurate" or "prosac"
        What fits it (`delf_engine.verification.models` says which there are for which model).
    precision : "float32" or "uint8"
        Compare descriptors as they are, or rounded to 8 bits: faster where the processor multiplies bytes.
    residual_px : float
        Inlier threshold in pixels (for ``fundamental`` the distance to the epipolar line).
    reference_size : int or None
        If given, `residual_px` holds for images whose longer side has this many pixels and grows with
        larger images; if None, it is in pixels of the original images.
    mutual : bool
        Keep matches that are nearest neighbours both ways only.
    max_distance : float or None
        Upper limit of the Euclidean descriptor distance.
    ratio : float or None
        Lowe's ratio test: nearest distance over second nearest, at most this.
    max_iterations : int
        Samples drawn at most; ``exhaustive`` draws none.
    confidence : float
        Sampling stops once a better model is this unlikely to have been missed.
    min_inliers : int
        Inliers from which on the two images are said to show the same place.
    """

    model: Literal["affine", "homography", "fundamental"]
    residual_px: Positive
    reference_size: Count | None
    mutual: bool
    max_distance: Positive | None
    ratio: Annotated[float, Field(gt=0, le=1)] | None
    max_iterations: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    min_inliers: Count
    estimator: Literal["ransac", "exhaustive", "magsac", "accurate", "prosac"]
    precision: Literal["float32", "uint8"]

    @model_validator(mode="after")
    def _estimator_of_model(self) -> VerificationConfig:
        if self.estimator == "exhaustive" and self.model != "affine":
            raise ValueError('estimator = "exhaustive" fits affine maps: it goes with model = "affine"')
        return self


class RerankingConfig(Config):
    """How many candidates of a shortlist are verified; the rest keep their order behind them.

    Attributes
    ----------
    top_n : int
        Candidates verified for each query, at most.
    top_k : int or None
        If given, only the first so many of a ranking matter: a query is done once the candidates that are left
        cannot change them. That can be known only where the ranking score has a limit (`RankingConfig.cap`).
    seconds : float or None
        Time for each query: candidates that are not begun by then stay unverified, behind the verified ones. How
        many that are depends on the machine.
    """

    top_n: Count
    top_k: Count | None = None
    seconds: Positive | None = None


class RankingConfig(Config):
    """By what verified candidates are ordered; equal ones by their first score, then by their first place.

    Attributes
    ----------
    score : "inliers", "effective", "weighted" or "similarity"
        ``inliers``: the number of inliers, the published rule. ``effective``: of those that lie apart.
        ``weighted``: the sum of similarity^exponent over the inliers. ``similarity``: the same sum over all mutual
        nearest neighbours, without geometry.
    exponent : float
        Of the cosine similarity of a match; negative similarities count as 0.
    blend : float
        What is added to the first three: so many times the sum over all mutual nearest neighbours.
    cap : float or None
        More than this counts as this: two images that surely show the same place are then ranked by their first
        scores, and with a `top_k` the search for better ones can stop.
    """

    score: Literal["inliers", "effective", "weighted", "similarity"]
    exponent: Positive
    blend: Annotated[float, Field(ge=0, le=1e6)]
    cap: Positive | None = None
