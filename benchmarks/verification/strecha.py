"""Pairs of Strecha's multi-view scenes, and the share of them accepted at zero false accepts.

Positives are pairs of one scene whose viewing directions differ by less than 60 degrees: the cameras see 58
degrees wide, so below that their views overlap at some distance. Negatives are pairs of Herz-Jesu, a church in
another town, with the three other scenes. Castle and entry show one facade, so their pairs are neither; the
fountain shows a strip of what may be the same facade, so whether its pairs with them are right or wrong is not
known. Both kinds are kept apart, as in `verification/decision.py`.

Each method gets the threshold that its own scores ask for: the smallest that accepts no negative.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from delf_engine import LocalFeatures, verify_features
from delf_engine.config import VerificationConfig
from delf_engine.errors import DataError
from delf_engine.matching import match_descriptors
from delf_engine.support.processes import map_ordered, process_pool

__all__ = [
    "BINS",
    "SCORES",
    "Accepted",
    "Camera",
    "Pair",
    "View",
    "accepted_shares",
    "bootstrap_shares",
    "epipolar_distances",
    "fundamental_between",
    "labelled_pairs",
    "load_cameras",
    "load_views",
    "pair_scores",
    "weighted_score",
    "zero_false_accepts",
]

Float64 = npt.NDArray[np.float64]
T = TypeVar("T")
Kind = Literal["same", "different", "castle / entry", "fountain / these"]

#: Ends of the bins of angles between viewing directions, in degrees.
BINS = (0.0, 15.0, 30.0, 45.0, 60.0)
SCORES = ("inliers", "weighted")
_CHURCH = "herzjesu"
_MATCHES_WEIGHT = 0.3


class View(NamedTuple):
    """A photograph: its scene, its id ``scene/file``, and its viewing direction in the scene's coordinates."""

    scene: str
    name: str
    direction: Float64


class Camera(NamedTuple):
    """Where a photograph was taken from: x ~ K R^T (X - C), pixels of the image and points of the scene.

    Attributes
    ----------
    K : (3, 3) float64
    R : (3, 3) float64
        From the camera's coordinates to the scene's.
    C : (3,) float64
    """

    K: Float64
    R: Float64
    C: Float64


class Pair(NamedTuple):
    """Two photographs by their place in the list, what is known of them, and their angle in degrees."""

    first: int
    second: int
    kind: Kind
    angle: float


@dataclass(frozen=True)
class Accepted:
    """What a method accepts at zero false accepts.

    Attributes
    ----------
    limit : float
        The highest score of a negative. Scores above it are accepted.
    accepted : (P,) bool
        Of the scores asked about.
    """

    limit: float
    accepted: npt.NDArray[np.bool_]


def load_views(folder: Path) -> list[View]:
    """Return the photographs of all scenes, in order.

    Raises
    ------
    DataError
        If there is no scene, or a file of cameras cannot be read.
    """
    # A camera looks along its third axis.
    return [
        View(scene, name, direction)
        for scene, name, direction in _read_scenes(
            folder, lambda camera: np.array(camera["R_cam_to_world"], np.float64)[:, 2]
        )
    ]


def load_cameras(folder: Path) -> dict[str, Camera]:
    """Return the cameras of all scenes by id of the photograph; errors are those of `load_views`."""

    def camera_of(values: Mapping[str, Any]) -> Camera:
        K, R = (np.array(values[key], np.float64).reshape(3, 3) for key in ("K", "R_cam_to_world"))
        return Camera(K, R, np.array(values["C"], np.float64).reshape(3))

    return {name: camera for _, name, camera in _read_scenes(folder, camera_of)}


def _read_scenes(folder: Path, read: Callable[[Mapping[str, Any]], T]) -> list[tuple[str, str, T]]:
    """Return scene, id and what `read` makes of its camera, for all photographs in order."""
    found = []
    for path in sorted(folder.glob("*/cameras.json")):
        scene = path.parent.name
        try:
            for name, camera in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
                found.append((scene, f"{scene}/{name}", read(camera)))
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: not a file of cameras: {type(error).__name__}: {error}") from error
    if not found:
        raise DataError(f"{folder}: no scene; folders with photographs and a cameras.json were expected")
    return found


def fundamental_between(a: Camera, b: Camera) -> Float64:
    """Return the fundamental matrix of two cameras, x_B^T F x_A = 0 (Hartley and Zisserman, 9.2.2).

    Returns
    -------
    (3, 3) float64
        Of Frobenius norm 1; all zeros for cameras at one place, which fix none.
    """
    turn, (x, y, z) = b.R.T @ a.R, b.R.T @ (a.C - b.C)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    F = np.linalg.inv(b.K).T @ cross @ turn @ np.linalg.inv(a.K)
    return np.asarray(F / max(float(np.linalg.norm(F)), np.finfo(float).tiny))


def epipolar_distances(F: Float64, a: npt.ArrayLike, b: npt.ArrayLike) -> Float64:
    """Return how far each match lies from its epipolar lines, in pixels, averaged over both images.

    Parameters
    ----------
    F : (3, 3) float64
        x_B^T F x_A = 0.
    a, b : (N, 2) float
        Matched points.
    """
    in_a, in_b = (np.c_[np.asarray(points, np.float64), np.ones(len(np.asarray(points)))] for points in (a, b))
    lines_b, lines_a = in_a @ F.T, in_b @ F
    error = np.abs((in_b * lines_b).sum(axis=1))
    return np.asarray(sum(error / np.linalg.norm(lines[:, :2], axis=1) for lines in (lines_a, lines_b)) / 2)


def labelled_pairs(views: Sequence[View]) -> list[Pair]:
    """Return all pairs of which something is known; those of one scene from 60 degrees on are left out."""
    pairs = []
    for (i, a), (j, b) in itertools.combinations(enumerate(views), 2):
        angle = _angle(a.direction, b.direction) if a.scene == b.scene else float("nan")
        kind = _kind(a.scene, b.scene)
        if kind != "same" or angle < BINS[-1]:
            pairs.append(Pair(i, j, kind, angle))
    return pairs


def weighted_score(inliers: npt.ArrayLike, matches: npt.ArrayLike) -> float:
    """Return the sum of cubed similarities over the inliers plus 0.3 times that over all mutual matches.

    Parameters
    ----------
    inliers, matches : (I,), (M,) float
        Cosine similarities; negative ones count as 0.
    """
    sums = [float((np.clip(np.asarray(s, np.float64), 0, 1) ** 3).sum()) for s in (inliers, matches)]
    return sums[0] + _MATCHES_WEIGHT * sums[1]


def pair_scores(
    features: Mapping[str, LocalFeatures],
    views: Sequence[View],
    pairs: Sequence[Pair],
    rule: VerificationConfig,
    *,
    seeds: int,
    title: str,
    workers: int = 1,
) -> dict[str, Float64]:
    """Match and verify all pairs, in `workers` processes, whose number does not change the scores.

    The weighted score takes its matches as the engine does, without the rule's distance limit; a ratio test is
    kept, since the similarities of features that need one say little without it.

    Returns
    -------
    dict of (seeds, P) float64
        By the names of `SCORES`.
    """
    records = [features[view.name] for view in views]
    jobs = ((records[p.first], records[p.second], rule, seeds) for p in pairs)
    with process_pool(workers) as pool:
        ahead = map_ordered(lambda job: pool.submit(_one_pair, *job), jobs, 2 * workers)
        results = (future.result() for _, future in ahead) if workers > 1 else (_one_pair(*job) for job in jobs)
        progress = track(results, title, total=len(pairs), console=Console(stderr=True))
        found = np.array(list(progress)).reshape(len(pairs), seeds, len(SCORES))
    return {name: found[:, :, i].T.copy() for i, name in enumerate(SCORES)}


def _one_pair(
    a: LocalFeatures, b: LocalFeatures, rule: VerificationConfig, seeds: int
) -> list[tuple[float, float]]:
    """Return the scores of a pair in the order of `SCORES`, one row a seed."""
    matches = match_descriptors(a.descriptors, b.descriptors, ratio=rule.ratio).similarities
    found = [verify_features(a, b, config=rule, seed=seed) for seed in range(seeds)]
    return [(float(result.inliers), weighted_score(result.similarities, matches)) for result in found]


def zero_false_accepts(scores: npt.ArrayLike, negatives: npt.ArrayLike) -> Accepted:
    """Accept the scores above every negative's: the lowest threshold without a false accept.

    Parameters
    ----------
    scores : (P,) float
    negatives : (N,) float
        A score that ties with the highest of them is not accepted.

    Raises
    ------
    DataError
        If there is no negative, which leaves the threshold open, or a score is NaN.
    """
    wrong, asked = np.asarray(negatives, np.float64), np.asarray(scores, np.float64)
    if not wrong.size:
        raise DataError("no pair of different places: nothing fixes the threshold")
    if np.isnan(wrong).any() or np.isnan(asked).any():
        raise DataError("scores must not be NaN")
    limit = float(wrong.max())
    return Accepted(limit, asked > limit)


def accepted_shares(scores: Float64, pairs: Sequence[Pair]) -> tuple[dict[str, float], list[float]]:
    """Return the share of pairs accepted at zero false accepts, by kind and bin of angles, averaged over seeds.

    Parameters
    ----------
    scores : (S, P) float64
        One row a seed; each has its own threshold.
    pairs : sequence of P Pair

    Returns
    -------
    shares : dict of float
        ``"all"`` positives, ``"0-15"`` and so on, and the two kinds kept apart. NaN where there is no pair.
    limits : list of S float
    """
    groups = pair_groups(pairs)
    wrong = groups.pop("different")
    found = [zero_false_accepts(row, row[wrong]) for row in scores]
    shares = {
        name: float(np.mean([f.accepted[mask].mean() for f in found])) if mask.any() else float("nan")
        for name, mask in groups.items()
    }
    return shares, [f.limit for f in found]


def pair_groups(pairs: Sequence[Pair]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which pairs belong to each column: ``"all"`` positives, their bins of angles, and the other kinds."""
    kinds = np.array([pair.kind for pair in pairs], dtype=object)
    angles = np.array([pair.angle for pair in pairs])
    same = kinds == "same"
    bins = {f"{a:g}-{b:g}": same & (angles >= a) & (angles < b) for a, b in itertools.pairwise(BINS)}
    others = {kind: kinds == kind for kind in ("different", "castle / entry", "fountain / these")}
    return {**bins, "all": same, **others}


def bootstrap_shares(
    scores: Float64, pairs: Sequence[Pair], views: Sequence[View], *, samples: int = 2000, seed: int = 0
) -> Float64:
    """Return the share of all positives accepted at zero false accepts in resamples of the photographs.

    Photographs are drawn with replacement within their scene; a pair counts as often as both its photographs were
    drawn together, and the threshold is found anew from the negatives that were drawn. The same `seed` draws the
    same photographs for each method, so that differences may be taken sample by sample. A resample holds two
    thirds of the photographs, so its thresholds are somewhat too low.

    Parameters
    ----------
    scores : (S, P) float64
        One row a seed of RANSAC, over which a sample's share is averaged.
    pairs : sequence of P Pair
    views : sequence of View
    samples, seed : int

    Returns
    -------
    (B,) float64
        Shares from 0 to 1, of at most `samples` resamples: those without a positive or a negative are left out.
    """
    groups = pair_groups(pairs)
    same, wrong = groups["all"], groups["different"]
    first = np.array([pair.first for pair in pairs])
    second = np.array([pair.second for pair in pairs])
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(samples):
        drawn = _drawn(views, rng)
        weights = drawn[first] * drawn[second]
        if not weights[same].any() or not weights[wrong].any():
            continue
        limits = scores[:, wrong & (weights > 0)].max(axis=1)
        accepted = (scores[:, same] > limits[:, None]).mean(axis=0)
        out.append(float(np.average(accepted, weights=weights[same])))
    return np.array(out)


def _drawn(views: Sequence[View], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how often each photograph is drawn, as many in each scene as it has."""
    scenes = np.array([view.scene for view in views], dtype=object)
    counts = np.zeros(len(views), np.int64)
    for scene in dict.fromkeys(scenes):
        own = np.flatnonzero(scenes == scene)
        counts[own] = np.bincount(rng.integers(0, len(own), len(own)), minlength=len(own))
    return counts


def _kind(scene_a: str, scene_b: str) -> Kind:
    if scene_a == scene_b:
        return "same"
    if _CHURCH in (scene_a, scene_b):
        return "different"
    return "fountain / these" if "fountain" in (scene_a, scene_b) else "castle / entry"


def _angle(a: Float64, b: Float64) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))
