"""The geometric verification of the released code of DELF, with the libraries that it calls: a peer."""

from __future__ import annotations

from delf_engine import LocalFeatures
from delf_engine.errors import ConfigError

__all__ = ["published_pair"]


def published_pair(a: LocalFeatures, b: LocalFeatures) -> int:
    """Verify two images as the released code does (tensorflow/models research/delf, match_images).

    A k-d tree of one image is queried with the other within a distance of 0.8; scikit-image's RANSAC fits an
    affine map to what it finds, within 20 pixels, in 1,000 trials.

    Returns
    -------
    int
        Inliers.

    Raises
    ------
    ConfigError
        If scikit-image is not installed.
    """
    from scipy.spatial import cKDTree

    try:
        from skimage.measure import ransac
        from skimage.transform import AffineTransform
    except ImportError as error:
        raise ConfigError("the published path needs scikit-image: pip install 'delf-engine[published]'") from error
    if not len(a) or not len(b):
        return 0
    _, rows = cKDTree(a.descriptors).query(b.descriptors, distance_upper_bound=0.8)
    near = rows < len(a)
    matched = a.keypoints[rows[near]], b.keypoints[near]
    if len(matched[0]) < 3:
        return 0
    _, inliers = ransac(matched, AffineTransform, min_samples=3, residual_threshold=20, max_trials=1000, rng=0)
    return 0 if inliers is None else int(inliers.sum())
