"""What two photographs wear alike: screenshot chrome, captions, ornate frames, TV strips, watermarks, buttons.

An overlay stands at the same place in both images, or, a frame, along the same edge. One near their edges is known
by a middle that does not agree, one that lies anywhere by how little stands exactly still. Two copies of one
photograph, or two shots from a tripod, agree in the middle too, and in much.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.features import LocalFeatures

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: A match stands still if it moves by less than this part of the width (or the height, if that is less).
STILL = 0.05
#: How far overlays may reach in from the edges, in parts of width and height, least first.
_BANDS = (0.1, 0.15, 0.2, 0.25, 0.3)
#: The middle disagrees if it holds at most this share of the matches that would stand still there if they lay
#: where features lie, and these would be so many.
_SHARE, _EXPECTED = 0.1, 8
#: A transform may be that of an overlay if it has so many matches and this share of them stand still.
LEAST, MOST = 10, 0.6
#: A frame is so wide, in parts of width and height. It explains a transform if this share of its matches lie along
#: the same edge of both images, and no more in the middle than this share of what is expected there, as above.
_FRAME, _MOST_ALONG, _FEWER = 0.1, 0.5, 0.5
#: Marks stand still as exactly as this, nearly all matches do so then, and they are at most this share of the
#: features; of features with the accuracy of a pixel so many matches are enough.
_EXACTLY, _NEARLY_ALL, _FEW, _LEAST_EXACT = 0.02, 0.75, 0.06, 7


def overlay_matches(
    a: LocalFeatures, b: LocalFeatures, pairs: npt.NDArray[np.int32], inliers: Mask, *, exact: bool = False
) -> Mask | None:
    """Tell which of M matches, (M,) bool, may be those of an overlay; None if none explains the inliers.

    These are all that stand still, and all in the band that the overlay takes, or near the marks: its ornaments
    match each other. `pairs`, (M, 2) int32, are the tentative matches of `a` and `b`, `inliers`, (M,) bool, those
    of the transform. With `exact`, features have the accuracy of a pixel: then marks are looked for anywhere, and
    of the band only what lies near something that stands still is left out.
    """
    first, second = a.keypoints[pairs[:, 0]].astype(np.float64), b.keypoints[pairs[:, 1]].astype(np.float64)
    still = _stands_still(first, second, a.image_size, b.image_size)
    agreeing = np.count_nonzero(inliers)
    if agreeing < (_LEAST_EXACT if exact else LEAST) or np.count_nonzero(still & inliers) < MOST * agreeing:
        return None
    inward = np.minimum(_inward(first, a.image_size), _inward(second, b.image_size))
    features = [_inward(f.keypoints.astype(np.float64), f.image_size) for f in (a, b)]
    for band in _BANDS:
        least = min(np.count_nonzero(one >= band) for one in features)
        expected = np.count_nonzero(still) * least / min(len(a), len(b))
        if expected < _EXPECTED:
            break
        middle = inward >= band
        if np.count_nonzero(still & middle) <= _SHARE * expected:
            if not exact:
                return np.asarray(still | ~middle)
            worn = still & ~middle
            return still | _near(first, worn, a.image_size) | _near(second, worn, b.image_size)
    if not exact:
        return None
    marks = inliers & _stands_still(first, second, a.image_size, b.image_size, _EXACTLY)
    if not _NEARLY_ALL * agreeing <= np.count_nonzero(marks) < _FEW * min(len(a), len(b)):
        return None
    return _near(first, marks, a.image_size) | _near(second, marks, b.image_size)


def frame_matches(a: LocalFeatures, b: LocalFeatures, pairs: npt.NDArray[np.int32], inliers: Mask) -> Mask | None:
    """Tell which of M matches, (M,) bool, may be those of a frame; None if none explains the inliers.

    Ornaments of a frame, and holes of a film strip, match others of their kind along the same edge: they need not
    stand still. Arguments as in `overlay_matches`, of features with the accuracy of a pixel.
    """
    sides = [(f, f.keypoints[rows]) for f, rows in zip((a, b), pairs.T, strict=True)]
    along, also = (_along(points, f.image_size) for f, points in sides)
    worn = (along & also).any(axis=1)
    agreeing, found = np.count_nonzero(inliers), np.count_nonzero(worn & inliers)
    if found < max(1, _MOST_ALONG * agreeing):
        return None
    middle = min(np.count_nonzero(~_along(f.keypoints, f.image_size).any(axis=1)) / len(f) for f, _ in sides)
    expected = found * middle / (1 - middle)  # were there as many among the features of the middle
    if expected < _EXPECTED or agreeing - found > _FEWER * expected:
        return None
    return np.asarray(worn)


def _along(points: npt.NDArray[np.float32], size: tuple[int, int]) -> Mask:
    """Tell along which edges points, (N, 2) in pixels, lie: left, upper, right, lower, (N, 4) bool."""
    parts = (points + 0.5) / np.array(size)
    return np.concatenate([parts < _FRAME, parts > 1 - _FRAME], axis=1)


def _near(points: Float64, worn: Mask, size: tuple[int, int]) -> Mask:
    """Tell which points, (N, 2) in pixels, lie near those that are worn, of which there are some; (N,) bool."""
    apart = np.linalg.norm(points[:, None] - points[worn], axis=2)
    return np.asarray(apart.min(axis=1) <= _EXACTLY * max(size))


def _stands_still(
    a: Float64, b: Float64, size_a: tuple[int, int], size_b: tuple[int, int], part: float = STILL
) -> Mask:
    """Tell which matched points, (N, 2) in pixels, stand at the same place of both images: (N,) bool.

    The same place, across and down: in parts of width and height, or so many pixels from one edge or the other, or
    so many parts of the width from the upper or the lower edge. Overlays are fitted to photographs of another
    shape or size in one of these ways.
    """
    a, b = a + 0.5, b + 0.5
    sizes = np.array([size_a, size_b], np.float64)
    shorter = sizes.min(axis=0)
    across = [_moved(a, b, sizes, axis=0, unit=unit) for unit in (shorter[0] / sizes[:, 0], np.ones(2))]
    scaled = shorter[0] / sizes[:, 0]
    down = [_moved(a, b, sizes, axis=1, unit=unit) for unit in (shorter[1] / sizes[:, 1], np.ones(2), scaled)]
    limit = part * shorter.min()
    return np.asarray(np.maximum(np.min(across, axis=0), np.min(down, axis=0)) <= limit)


def _moved(a: Float64, b: Float64, sizes: Float64, *, axis: int, unit: Float64) -> Float64:
    """Return by how many units points have moved, (N,), from the nearer in result of both edges along an axis."""
    start = a[:, axis] * unit[0] - b[:, axis] * unit[1]
    end = (sizes[0, axis] - a[:, axis]) * unit[0] - (sizes[1, axis] - b[:, axis]) * unit[1]
    return np.asarray(np.minimum(np.abs(start), np.abs(end)))


def _inward(points: Float64, size: tuple[int, int]) -> Float64:
    """Return how far points lie from the nearest edge, (N,), in parts of width and height."""
    parts = (points + 0.5) / np.array(size)
    return np.asarray(np.minimum(parts, 1 - parts).min(axis=1))
