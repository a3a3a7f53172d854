"""Repeatability, matching score and matching accuracy under a known homography; and how well transforms fit.

    python -m benchmarks.verification.homography [--models delf-r18 delf-r50] [--data DIR]

prints the corner error of transforms on pairs of known homography (`oxford_affine/`, `homography/`): of coarse
evidence alone, with details, and of OpenCV's homography (USAC) from RootSIFT, with 4,000 keypoints and the ratio
test at 0.8. The error is the mean distance of the four corners of the first image, in pixels of the second
(DeTone et al., SuperPoint, 2018); medians are over pairs, a pair without a transform is infinitely wrong.

The rest is for `extraction/confirmation.py`.

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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from scipy.spatial import cKDTree

import delf_engine
from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.peers import root_sift
from delf_engine import LocalFeatures
from delf_engine.errors import DataError
from delf_engine.matching import match_descriptors

__all__ = [
    "PlanarPair",
    "Size",
    "corner_error",
    "homography_pairs",
    "matching_figures",
    "oxford_pairs",
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


def oxford_pairs(folder: Path) -> list[PlanarPair]:
    """Return the pairs of ``oxford_affine``: image 1 of each of its scenes to 2, 3, 4, 5, 6.

    Raises
    ------
    DataError
        If a homography is missing or is none.
    """
    scenes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return [
        PlanarPair(scene, f"{scene}/img1.jpg", f"{scene}/img{k}.jpg", _read(folder / scene / f"H1to{k}p"))
        for scene in scenes
        for k in range(2, 7)
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


def corner_error(found: Float64 | None, truth: Float64, size: Size) -> float:
    """Return the mean distance of the corners of an image, (width, height), by two homographies; inf for None."""
    if found is None:
        return math.inf
    right, bottom = size[0] - 1.0, size[1] - 1.0
    corners = np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]])
    with np.errstate(all="ignore"):
        here, there = ((corners @ H.T)[:, :2] / (corners @ H.T)[:, 2:] for H in (found, truth))
        error = float(np.linalg.norm(here - there, axis=1).mean())
    return error if math.isfinite(error) else math.inf


def main() -> None:
    """Print the corner errors of each checkpoint, write JSON."""
    parser = options_parser(__doc__, "out/corner_errors.json", data=True)
    parser.add_argument("--models", nargs="+", default=["delf-r18", "delf-r50"])
    args = parser.parse_args()
    data = data_folder(args.data)
    pairs = [("oxford_affine", pair) for pair in oxford_pairs(data / "oxford_affine")]
    pairs += [("homography", pair) for pair in homography_pairs(data / "homography")]
    rows: list[dict[str, Any]] = []
    extractors = {model: delf_engine.Extractor.from_pretrained(model) for model in args.models}
    for folder, pair in track(pairs, "corner errors", console=Console(stderr=True)):
        first, second = data / folder / pair.first, data / folder / pair.second
        peer = [root_sift(path, max_features=_PEER_FEATURES) for path in (first, second)]
        found = {"RootSIFT, USAC": _by_opencv(*peer)}
        for model, extractor in extractors.items():
            for how, fine in (("coarse", False), ("with details", True)):
                answer = delf_engine.verify(first, second, extractor=extractor, model=model, fine=fine)
                found[f"{model}, {how}"] = answer.transform
        errors = {how: corner_error(H, pair.H, peer[0].image_size) for how, H in found.items()}
        rows.append({"data": folder, "scene": pair.scene, "second": pair.second, "errors": errors})
    methods = list(rows[0]["errors"])
    groups = _groups(rows)
    cells = [[name, str(len(g)), *(f"{_median(g, how):.1f}" for how in methods)] for name, g in groups.items()]
    print_markdown("Median corner error, pixels", ["pairs", "number", *methods], cells)
    each = [
        [f"{row['scene']} {row['second'][-5]}", *(f"{row['errors'][how]:.1f}" for how in methods)] for row in rows
    ]
    print_markdown("Corner error of each pair, pixels", ["pair", *methods], each)
    medians = {name: {how: _median(group, how) for how in methods} for name, group in groups.items()}
    write_json(args.out, {"medians": medians, "pairs": rows})


_PEER_FEATURES, _PEER_RATIO, _PEER_RESIDUAL_PX = 4000, 0.8, 3.0


def _by_opencv(a: LocalFeatures, b: LocalFeatures) -> Float64 | None:
    """Return the homography of two images by OpenCV alone, None if there is none."""
    nearest = cv2.BFMatcher().knnMatch(a.descriptors, b.descriptors, k=2)
    good = [m[0] for m in nearest if len(m) == 2 and m[0].distance < _PEER_RATIO * m[1].distance]
    if len(good) < 4:
        return None
    points = a.keypoints[[m.queryIdx for m in good]], b.keypoints[[m.trainIdx for m in good]]
    H, _ = cv2.findHomography(*points, cv2.USAC_MAGSAC, _PEER_RESIDUAL_PX, maxIters=10_000, confidence=0.999)
    return None if H is None else np.asarray(H, np.float64)


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the rows that a median is taken over: easier and hardest pairs of Oxford, the rest, each scene."""
    oxford = [row for row in rows if row["data"] == "oxford_affine"]
    easier = [row for row in oxford if not row["second"].endswith("6.jpg")]
    groups = {
        "oxford_affine, 1-2 to 1-5": easier,
        "oxford_affine, 1-6": [row for row in oxford if row not in easier],
        "homography": [row for row in rows if row["data"] == "homography"],
    }
    scenes = {f"{row['data']}, {row['scene']}": [] for row in rows}  # type: dict[str, list[Mapping[str, Any]]]
    for row in rows:
        scenes[f"{row['data']}, {row['scene']}"].append(row)
    return {**groups, **scenes}


def _median(rows: Sequence[Mapping[str, Any]], how: str) -> float:
    return float(np.median([row["errors"][how] for row in rows]))


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


if __name__ == "__main__":
    main()
