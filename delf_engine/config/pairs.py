"""Options of pairs of images: how they are matched and verified, coarsely and in detail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from delf_engine.config.base import Config, Count, Positive

_MOST_ENLARGED = 4.0  # beyond, nothing is seen better


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
        Keep matches that are nearest neighbours both ways only. Else they are the nearest neighbours in B of the
        features of A, the query: as published, but B and A are then counted otherwise than A and B.
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
    # Their defaults stay: the shipped calibrations know their options by a hash of what is not at its default.
    estimator: Literal["ransac", "exhaustive", "magsac", "accurate", "prosac"] = "ransac"
    precision: Literal["float32", "uint8"] = "float32"

    @model_validator(mode="after")
    def _estimator_of_model(self) -> VerificationConfig:
        if self.estimator == "exhaustive" and self.model != "affine":
            raise ValueError('estimator = "exhaustive" fits affine maps: it goes with model = "affine"')
        return self


class FineConfig(Config):
    """Fine evidence: features of pixel accuracy, which tell a place from another one that looks like it.

    RootSIFT (Lowe, IJCV 2004; Arandjelović and Zisserman, CVPR 2012), mutual nearest neighbours, and what of them
    agrees on one fundamental matrix and on one homography.

    Attributes
    ----------
    max_features : int
        Keypoints kept an image, the strongest.
    min_image_size, max_image_size : int
        Photographs are enlarged, at most four times, or shrunk until their longer side lies between: the pixels of
        `residual_px`.
    contrast : float
        Least contrast of a keypoint, OpenCV's ``contrastThreshold``; its own default of 0.04 leaves a third.
    ratio : float
        Lowe's ratio test: nearest distance over second nearest, at most this.
    residual_px : float
        Largest Sampson distance of an inlier.
    max_iterations, confidence
        Limits of RANSAC, as for verification.
    """

    max_features: Count = 4000
    min_image_size: Count = 640
    max_image_size: Count = 1024
    contrast: Positive = 0.01
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.85
    residual_px: Positive = 3.0
    max_iterations: Count = 2000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.999

    @model_validator(mode="after")
    def _sizes_in_order(self) -> FineConfig:
        if self.min_image_size > self.max_image_size:
            raise ValueError("min_image_size must not be above max_image_size")
        return self

    def sees(self, image_size: tuple[int, int]) -> bool:
        """Tell whether a photograph, (width, height), has pixels for details: a quarter of the least size."""
        return _MOST_ENLARGED * max(image_size) >= self.min_image_size

    def scale(self, image_size: tuple[int, int]) -> float:
        """Return by how much a photograph, (width, height), is enlarged."""
        longest = max(image_size)
        enlarged = min(self.min_image_size / longest, _MOST_ENLARGED)
        return min(max(1.0, enlarged), self.max_image_size / longest)
