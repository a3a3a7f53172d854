"""Features of photographs that homographies take from others."""

from __future__ import annotations

import numpy as np

from delf_engine.features import LocalFeatures
from helpers import random_features

#: Of a photograph of 640 x 480 pixels: turned by 10 degrees, shifted, seen a little from the side.
TURNED = np.array([[0.95, -0.17, 60.0], [0.17, 0.95, -40.0], [1e-4, -5e-5, 1.0]])


def moved(
    rng: np.random.Generator,
    features: LocalFeatures,
    homography: np.ndarray,
    *,
    noise: float = 0.0,
    turn: float = 0.05,
    strangers: int = 0,
    size: tuple[int, int] | None = None,
) -> LocalFeatures:
    """Move features by a homography, with noise in pixels and on descriptors, and add some of its own."""
    points = np.c_[features.keypoints, np.ones(len(features))] @ homography.T
    keypoints = points[:, :2] / points[:, 2:] + rng.normal(0, noise, (len(features), 2))
    descriptors = features.descriptors + rng.normal(0, turn, features.descriptors.shape)
    image_size = size or features.image_size
    inside = (keypoints >= 0).all(1) & (keypoints <= np.array(image_size) - 1).all(1)
    own = random_features(rng, strangers, features.dim, image_size)
    descriptors = np.r_[descriptors[inside], own.descriptors]
    count = len(descriptors)
    return LocalFeatures(
        keypoints=np.r_[keypoints[inside], own.keypoints],
        scales=np.full(count, 2.0),
        scores=np.linspace(2, 1, count),
        descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        image_size=image_size,
    )
