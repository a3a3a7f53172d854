"""Homographies of mined pairs: by details, or fitted again closer than verification asks for, or in two hops."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from delf_engine.config import FineConfig, VerificationConfig
from delf_engine.features import LocalFeatures
from delf_engine.verification import Verification
from delf_engine.verification.fits import Fit
from delf_engine.verification.geometry import pixel_frame, planar_residuals, plausible
from delf_engine.verification.models import estimate

Floats = npt.NDArray[np.float64]

# Verification is content with matches a cell and a half off; half of that is what a cell is worth as a label.
_CLOSER = 0.5
# A resized or recompressed copy moves no corner by more than a cell or so; of its matches nearly all agree.
_MOST_SHIFT = 0.03
_LEAST_SHARE = 0.8
# Third coordinate of a corner against that of the matches, below which the corner counts as on the horizon.
_MARGIN = 1e-3
# Cosine from which on RootSIFT of the same place is the same thing.
_ALIKE = 0.8
_MOST_POINTS = 128
# Two planes meet where matches of the one lie this near those of the other, of the photograph's longer side.
_MEETING = 0.05


def fit_pair(
    a: LocalFeatures, b: LocalFeatures, found: Verification, config: VerificationConfig, *, seed: int = 0
) -> tuple[Floats, Floats] | None:
    """Fit a homography to the inliers of a verification of `a` and `b`, at half of its residual.

    RANSAC finds the plane that most inliers lie on, least squares over these smooths it (Hartley and Zisserman,
    Multiple View Geometry, 4.1 and 4.5). Inliers of another model, affine or fundamental, are as good a start.

    Returned are the homography, (3, 3), pixels of a to pixels of b, with positive third coordinates all over both
    photographs, and the matches that agree with it, (M, 4): xa, ya, xb, yb, pixels. None if there is no
    homography, or its horizon crosses one of the photographs.
    """
    frame_a, frame_b = (pixel_frame(f.image_size, config.reference_size) for f in (a, b))
    points_a = a.keypoints[found.matches[:, 0]].astype(np.float64)
    points_b = b.keypoints[found.matches[:, 1]].astype(np.float64)
    framed_a = points_a * frame_a[0, 0] + frame_a[:2, 2]
    framed_b = points_b * frame_b[0, 0] + frame_b[:2, 2]
    fit = estimate(
        "homography",
        framed_a,
        framed_b,
        threshold=_CLOSER * config.residual_px,
        max_iterations=config.max_iterations,
        confidence=config.confidence,
        seed=seed,
    )
    if fit is None:
        return None
    fit = _least_squares(fit, framed_a, framed_b, _CLOSER * config.residual_px)
    homography: Floats = np.asarray(np.linalg.inv(frame_b) @ fit.transform @ frame_a, np.float64)
    points = np.hstack([points_a, points_b])[fit.inliers]
    inverse = np.asarray(np.linalg.inv(homography), np.float64)
    if not (
        _near_side(homography, a.image_size, points[:, :2]) and _near_side(inverse, b.image_size, points[:, 2:])
    ):
        return None
    # The corner (0, 0) lies on the near side, so that this gives all others a positive third coordinate too.
    return homography / homography[2, 2], points


def fit_fine(
    homography: Floats, a: LocalFeatures, b: LocalFeatures, config: FineConfig
) -> tuple[Floats, Floats] | None:
    """Return a homography of fine evidence, and the fine keypoints of a that b has where it puts them.

    It maps pixels of a to pixels of b. Returned is what `fit_pair` returns, at most 128 points.
    """
    points = a.keypoints.astype(np.float64)
    inverse = np.asarray(np.linalg.inv(homography), np.float64)
    if not (_near_side(homography, a.image_size) and _near_side(inverse, b.image_size)):
        return None
    radius = config.residual_px / config.scale(b.image_size)
    distance, nearest = KDTree(b.keypoints).query(_moved(homography, points), distance_upper_bound=radius)
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[(a.descriptors[rows] * b.descriptors[nearest[rows]]).sum(1) >= _ALIKE]
    rows = rows[:: len(rows) // _MOST_POINTS + 1]
    return homography, np.hstack([points[rows], b.keypoints[nearest[rows]].astype(np.float64)])


def composed(
    first: tuple[Floats, Floats],
    second: tuple[Floats, Floats],
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> tuple[Floats, Floats] | None:
    """Carry what a shares with b over to c, where the planes of both pairs meet in b.

    What no descriptor of a finds in c becomes a label so: the hardest pairs are those of two hops. `first` is of a
    and b, `second` of b and c, as `fit_pair` returns them; `sizes` are (width, height) of a, b and c.

    Returned are the homography, pixels of a to pixels of c, and points of both pairs that lie on the common part,
    inside both photographs, (M, 4). None if the horizon crosses one of the photographs.
    """
    homography = second[0] @ first[0]
    if abs(homography[2, 2]) < _MARGIN * np.abs(homography).max():
        return None
    homography = homography / homography[2, 2]
    inverse = np.asarray(np.linalg.inv(homography), np.float64)
    if not (_near_side(homography, sizes[0]) and _near_side(inverse, sizes[2])):
        return None
    in_b, from_b = first[1][:, 2:], second[1][:, :2]
    near = np.hypot(*(in_b[:, None] - from_b[None]).transpose(2, 0, 1)) <= _MEETING * max(sizes[1])
    in_a, in_c = first[1][near.any(1), :2], second[1][near.any(0), 2:]
    points = np.vstack([np.hstack([in_a, _moved(homography, in_a)]), np.hstack([_moved(inverse, in_c), in_c])])
    last = np.array([*sizes[0], *sizes[2]]) - 1.0
    return homography, points[((points >= 0) & (points <= last)).all(1)]


def near_duplicate(homography: Floats, found: Verification, a: LocalFeatures, b: LocalFeatures) -> bool:
    """Tell whether b is a itself, resized or recompressed: nothing moves, and nearly all matches agree.

    Such a pair teaches nothing that an augmented view of one photograph does not. A photograph from the same
    tripod in other light does: fewer of its matches agree.
    """
    if found.inliers < _LEAST_SHARE * found.putative:
        return False
    corners = _corners(a.image_size)
    shift = _moved(homography, corners) / np.array(b.image_size) - corners / np.array(a.image_size)
    return bool(np.abs(shift).max() <= _MOST_SHIFT)


def _least_squares(fit: Fit, a: Floats, b: Floats, threshold: float) -> Fit:
    """Fit to all inliers of RANSAC; what it found itself stays if fewer agree afterwards."""
    solved, _ = cv2.findHomography(a[fit.inliers], b[fit.inliers], 0)
    if solved is None or not np.isfinite(solved).all():
        return fit
    transform = np.asarray(solved, np.float64)
    if (_homogeneous(a[fit.inliers]) @ transform[2] < 0).any():
        transform = -transform
    residuals = planar_residuals(transform, a, b)
    agree = (residuals <= threshold) & plausible(transform, a)
    return Fit(transform, agree, residuals) if agree.sum() >= fit.inliers.sum() else fit


def _near_side(homography: Floats, size: tuple[int, int], points: Floats | None = None) -> bool:
    """Tell whether the whole photograph lies on the side of the horizon that its points, or centre, lie on."""
    points = np.array([size]) / 2.0 if points is None else points
    middle = float(np.median(_homogeneous(points) @ homography[2]))
    depths = _homogeneous(_corners(size)) @ homography[2] * np.sign(middle)
    return bool((depths > _MARGIN * abs(middle)).all())


def _moved(homography: Floats, points: Floats) -> Floats:
    moved = _homogeneous(points) @ homography.T
    return np.asarray(moved[:, :2] / moved[:, 2:], np.float64)


def _corners(size: tuple[int, int]) -> Floats:
    right, bottom = size[0] - 1.0, size[1] - 1.0
    return np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])


def _homogeneous(points: Floats) -> Floats:
    return np.hstack([points, np.ones((len(points), 1))])
