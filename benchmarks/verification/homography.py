"""Repeatability, matching score and matching accuracy under a known homography.

The definitions are the field's, by distance of centres instead of overlap of regions (Mikolajczyk et al., A
Comparison of Affine Region Detectors, IJCV 2005; DeTone et al., SuperPoint, 2018; Balntas et al., HPatches, 2017;
Dusmanu et al., D2-Net, 2019). Only keypoints of the shared region count: those whose projection falls into the
other image.

repeatability
    Share of the keypoints of one image that have a keypoint of the other within the radius after projection,
    averaged over both directions. A dense set of points has some by chance alone: compare with random points.
matching score
    Correct matches over the number of keypoints in the shared region, averaged over both images. A match of mutual
    nearest neighbours is correct if its keypoint, projected, lies within the radius of the other.
matching accuracy
    Share of the mutual nearest neighbours, shared region or not, that are correct.

Each distance is measured in pixels of the image that is projected into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from delf_engine import LocalFeatures
from delf_engine.errors import DataError
from delf_engine.matching import match_descriptors

__all__ = [
    "PlanarPair",
    "Size",
    "homography_pairs",
    "matching_figures",
    "planar_figures",
    "project",
    "random_repeatability",
    "repeatability",
]

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class PlanarPair:
    """Two photographs of a plane.

    Attributes
    ----------
    scene : str
    first, second : str
        Their files, relative to the folder of the data set.
    H : (3, 3) float64
        Maps pixels of the first to pixels of the second.
    """

    scene: str
    first: str
    second: str
    H: Float64


def homography_pairs(folder: Path) -> list[PlanarPair]:
    """Return the pairs of the data set: ``v_dogman`` 1 to 2, 3, 4, 5, 6, and ``graf`` A to B.

    Raises
    ------
    DataError
        If a homography is missing or is none.
    """
    files = [("v_dogman", "1.jpg", f"{k}.jpg", f"H_1_{k}.txt") for k in range(2, 7)]
    files.append(("graf", "grafA.jpg", "grafB.jpg", "H_A_B.txt"))
    return [
        PlanarPair(scene, f"{scene}/{first}", f"{scene}/{second}", _read(folder / scene / truth))
        for scene, first, second, truth in files
    ]


def project(H: Float64, points: npt.ArrayLike, size_from: Size, size_to: Size) -> tuple[Float64, Mask]:
    """Project points into another image.

    Parameters
    ----------
    H : (3, 3) float64
        The side of its horizon on which the centre of the first image lies is the visible one.
    points : (N, 2) float
        x, y in pixels of the first image.
    size_from, size_to : (width, height)

    Returns
    -------
    projected : (N, 2) float64
    visible : (N,) bool
        Whether the projection lies inside the second image.
    """
    at = np.asarray(points, np.float64).reshape(-1, 2)
    centre = np.array([(size_from[0] - 1) / 2, (size_from[1] - 1) / 2, 1.0])
    mapped = np.c_[at, np.ones(len(at))] @ (H * np.sign(H[2] @ centre)).T
    with np.errstate(all="ignore"):
        projected = mapped[:, :2] / mapped[:, 2:]
        visible = mapped[:, 2] > 0
        visible &= ((projected >= -0.5) & (projected <= np.array(size_to) - 0.5)).all(axis=1)
    return projected, visible


def repeatability(
    a: npt.ArrayLike, b: npt.ArrayLike, H: Float64, size_a: Size, size_b: Size, *, radius: float = 8.0
) -> float:
    """Return the share of keypoints that the other image has, too (see the module), 0 to 1.

    Parameters
    ----------
    a, b : (N, 2), (M, 2) float
        Keypoints of both images, x, y in pixels.
    H : (3, 3) float64
        From the first image to the second.
    size_a, size_b : (width, height)
    radius : float
        Pixels.

    Returns
    -------
    float
        0 if an image has no keypoint in the shared region.
    """
    in_b, shared_a = project(H, a, size_a, size_b)
    in_a, shared_b = project(_inverse(H), b, size_b, size_a)
    points_a = np.asarray(a, np.float64).reshape(-1, 2)[shared_a]
    points_b = np.asarray(b, np.float64).reshape(-1, 2)[shared_b]
    if not len(points_a) or not len(points_b):
        return 0.0
    forth = cKDTree(points_b).query(in_b[shared_a])[0] <= radius
    back = cKDTree(points_a).query(in_a[shared_b])[0] <= radius
    return float((forth.mean() + back.mean()) / 2)


def matching_figures(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    pairs: npt.ArrayLike,
    H: Float64,
    size_a: Size,
    size_b: Size,
    *,
    radius: float = 8.0,
) -> tuple[float, float]:
    """Return the matching score and the matching accuracy (see the module), each 0 to 1.

    Parameters
    ----------
    a, b : (N, 2), (M, 2) float
        Keypoints of both images, x, y in pixels.
    pairs : (P, 2) int
        Rows of the matched keypoints.
    H : (3, 3) float64
        From the first image to the second.
    size_a, size_b : (width, height)
    radius : float
        Pixels.

    Returns
    -------
    (float, float)
        0 where there is nothing to count.
    """
    points_a, points_b = (np.asarray(p, np.float64).reshape(-1, 2) for p in (a, b))
    rows_a, rows_b = np.asarray(pairs, np.intp).reshape(-1, 2).T
    directions = (
        (H, points_a, points_b, rows_a, rows_b, size_a, size_b),
        (_inverse(H), points_b, points_a, rows_b, rows_a, size_b, size_a),
    )
    scores, accuracies = [], []
    for M, here, there, rows_here, rows_there, size_here, size_there in directions:
        projected, shared = project(M, here, size_here, size_there)
        with np.errstate(all="ignore"):
            errors = np.linalg.norm(projected[rows_here] - there[rows_there], axis=1)
        right = shared[rows_here] & (errors <= radius)
        scores.append(right.sum() / max(1, shared.sum()))
        accuracies.append(right.sum() / max(1, len(right)))
    return float(np.mean(scores)), float(np.mean(accuracies))


def planar_figures(
    features: Mapping[str, LocalFeatures], pairs: list[PlanarPair], *, radius: float = 8.0
) -> dict[str, dict[str, float]]:
    """Return repeatability, matching score, matching accuracy and number of features for each pair.

    All features are matched by mutual nearest neighbours and nothing else.
    """
    figures = {}
    for pair in pairs:
        a, b = features[pair.first], features[pair.second]
        matches = match_descriptors(a.descriptors, b.descriptors).pairs
        places = (pair.H, a.image_size, b.image_size)
        score, accuracy = matching_figures(a.keypoints, b.keypoints, matches, *places, radius=radius)
        figures[f"{pair.first} - {pair.second}"] = {
            "features": (len(a) + len(b)) / 2,
            "matches": float(len(matches)),
            "repeatability": repeatability(a.keypoints, b.keypoints, *places, radius=radius),
            "matching_score": score,
            "matching_accuracy": accuracy,
        }
    return figures


def random_repeatability(
    pair: PlanarPair, size_a: Size, size_b: Size, *, count: int = 1000, draws: int = 10, radius: float = 8.0
) -> float:
    """Return the repeatability that `count` points strewn at random over each image have by chance."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(draws):
        a, b = (rng.uniform(-0.5, np.array(size) - 0.5, (count, 2)) for size in (size_a, size_b))
        values.append(repeatability(a, b, pair.H, size_a, size_b, radius=radius))
    return float(np.mean(values))


def _inverse(H: Float64) -> Float64:
    return np.asarray(np.linalg.inv(H), dtype=np.float64)


def _read(path: Path) -> Float64:
    try:
        H = np.loadtxt(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a 3x3 homography: {error}") from error
    if H.shape != (3, 3) or not np.isfinite(H).all() or abs(np.linalg.det(H)) < 1e-12:
        raise DataError(f"{path}: not an invertible 3x3 homography")
    return H
