"""Verification of a pair as others write it, and what verifies all pairs of a stored collection with it.

Features are read from a store, one image at a time, by each process for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from delf_engine import LocalFeatures
from delf_engine.config import VerificationConfig
from delf_engine.errors import ConfigError
from delf_engine.storage import FeatureStore
from delf_engine.support.processes import ProcessPool

__all__ = ["PEERS", "Shortlists", "opencv_script", "published_path", "pydegensac_script", "run_all", "run_one"]

#: Candidates of each query, by id.
Shortlists = Mapping[str, Sequence[str]]
#: From two images and the settings of the last two peers to the number of inliers.
Verifier = Callable[[LocalFeatures, LocalFeatures, VerificationConfig], int]


def published_path(a: LocalFeatures, b: LocalFeatures, settings: VerificationConfig) -> int:
    """Verify as the released code of DELF does (research/delf, match_images), by its numbers, not `settings`.

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


def pydegensac_script(a: LocalFeatures, b: LocalFeatures, settings: VerificationConfig) -> int:
    """Verify mutual nearest neighbours by NumPy with a homography of pydegensac."""
    import pydegensac

    if not len(a) or not len(b):
        return 0
    similarities = a.descriptors @ b.descriptors.T
    to_b, to_a = similarities.argmax(axis=1), similarities.argmax(axis=0)
    rows = np.flatnonzero(to_a[to_b] == np.arange(len(a)))
    if len(rows) < 4:
        return 0
    matched = a.keypoints[rows], b.keypoints[to_b[rows]]
    try:
        _, inliers = pydegensac.findHomography(
            *matched, settings.residual_px, settings.confidence, settings.max_iterations
        )
    except np.linalg.LinAlgError:  # it inverts what it found, singular or not
        return 0
    return int(np.sum(inliers))


def opencv_script(a: LocalFeatures, b: LocalFeatures, settings: VerificationConfig) -> int:
    """Verify OpenCV's cross-checked matches with a homography of its MAGSAC++."""
    if not len(a) or not len(b):
        return 0
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a.descriptors, b.descriptors)
    if len(found) < 4:
        return 0
    points_a = np.array([a.keypoints[m.queryIdx] for m in found])
    points_b = np.array([b.keypoints[m.trainIdx] for m in found])
    _, inliers = cv2.findHomography(
        points_a,
        points_b,
        cv2.USAC_MAGSAC,
        settings.residual_px,
        maxIters=settings.max_iterations,
        confidence=settings.confidence,
    )
    return 0 if inliers is None else int(np.sum(inliers))


PEERS: dict[str, Verifier] = {
    "published path (cKDTree, scikit-image)": published_path,
    "NumPy, pydegensac": pydegensac_script,
    "OpenCV, MAGSAC++": opencv_script,
}


def run_one(peer: str, store: FeatureStore, shortlists: Shortlists, settings: VerificationConfig) -> list[int]:
    """Verify all pairs in this process; return their inliers, in order."""
    out = []
    for query, candidates in shortlists.items():
        features = store.get(query)
        out += [PEERS[peer](features, store.get(image), settings) for image in candidates]
    return out


def run_all(
    pool: ProcessPool, peer: str, store: Path, shortlists: Shortlists, settings: VerificationConfig
) -> list[int]:
    """Do what `run_one` does in the processes of a pool, of one thread each, which open the store themselves."""
    jobs = [pool.submit(_one_query, peer, store, {query: ids}, settings) for query, ids in shortlists.items()]
    return [count for job in jobs for count in job.result()]


def _one_query(peer: str, store: Path, shortlist: Shortlists, settings: VerificationConfig) -> list[int]:
    cv2.setNumThreads(1)
    return run_one(peer, _opened(store), shortlist, settings)


@cache
def _opened(store: Path) -> FeatureStore:
    return FeatureStore.open(store, readonly=True)
