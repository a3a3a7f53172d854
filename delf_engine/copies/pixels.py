"""What tells a copy from another photograph of its place: laid over each other, the very pixels agree.

Another photograph has parallax, other people, other shadows: patches of it agree in part, those of a copy nearly
everywhere, whatever was done to colours and compression.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.extraction.content import content_box
from delf_engine.images import MAX_PIXELS, load_reduced
from delf_engine.plotting.overlay import cut

Floats = npt.NDArray[np.floating]

#: Takes pixels as squares, the first from 0 to 1, to points, the first at 0, as OpenCV and features have them.
HALF = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
#: Shorter side of an overlap that can be compared, pixels.
LEAST = 24

_WHOLE = np.linalg.inv(HALF)
_SIDE = 1024  # of what is read, pixels
_SHOWN = 320  # longer side of the overlap where it is compared
_PATCH = (17, 17)  # pixels
_TEXTURE = 4.0  # least standard deviation of a patch in either, of 255
_PATCHES = 12  # with texture
# Where both have the very same frame nothing has moved, and a caption may cover much: then the best quarter of the
# patches counts, if the rest agrees in part.
_FRAME, _BEST, _COVERED = 0.98, 0.75, 0.55
_STEPS = 40  # of the refinement
_HOPEFUL = 0.5  # score from which on a transform that was refined coarsely is refined finely
_SKEW = 2.0  # longest axis over the shortest of a transform that is still a copy


@dataclass(frozen=True, eq=False)
class Grey:
    """A photograph's brightness, reduced."""

    pixels: npt.NDArray[np.uint8]  # (H, W)
    size: tuple[int, int]  # of the photograph: width, height, pixels
    # Without a uniform frame, in pixels of the photograph, which are squares here, the first from 0 to 1.
    content: tuple[float, float, float, float]

    @property
    def inside(self) -> npt.NDArray[np.uint8]:
        """The pixels of the content."""
        zoom = np.tile(np.array(self.pixels.shape[::-1]) / self.size, 2)
        x0, y0, x1, y1 = np.rint(np.array(self.content) * zoom).astype(int).tolist()
        return self.pixels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far two photographs agree where they overlap."""

    # Normalised cross-correlation of the median patch, -1 to 1; of a better one where both have the same frame.
    score: float
    outline_a: Floats  # the overlap, a convex polygon, (K, 2) in pixels of either
    outline_b: Floats
    part_a: float  # share of either's content that lies in the overlap
    part_b: float
    transform: Floats  # (3, 3), pixels of a to pixels of b, affine

    @property
    def scale(self) -> float:
        """Pixels of b over those of a for the same thing."""
        return float(np.sqrt(abs(np.linalg.det(self.transform[:2, :2]))))


def read_grey(
    path: str | os.PathLike[str],
    max_pixels: int | None = None,
    content: tuple[float, float, float, float] | None = None,
) -> Grey:
    """Read a photograph's brightness, and its content unless it is known; an `ImageError` if it cannot be read."""
    pixels, size = load_reduced(path, lambda _: _SIDE, max_pixels=max_pixels or MAX_PIXELS)
    if content is None:
        x0, y0, x1, y1 = content_box(pixels)
        if x1 <= x0 or y1 <= y0:
            x0, y0, x1, y1 = 0, 0, pixels.shape[1], pixels.shape[0]
        across, down = size[0] / pixels.shape[1], size[1] / pixels.shape[0]
        content = (x0 * across, y0 * down, x1 * across, y1 * down)
    shrink = min(1.0, _SIDE / max(pixels.shape))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    target = [max(1, round(side * shrink)) for side in grey.shape[::-1]]
    return Grey(np.asarray(cv2.resize(grey, target, interpolation=cv2.INTER_AREA), np.uint8), size, content)


def laid_over(a: Grey, b: Grey, view: int) -> Floats:
    """Return the transform, (3, 3), that lays the content of a, turned as `turned_grids` does, over that of b."""
    corners = corners_of(a.content)
    if view >= len(corners):  # mirrored
        corners = corners[[1, 0, 3, 2]]
    return _affine(np.roll(corners, -(view % len(corners)), axis=0), corners_of(b.content))


def agreement(a: Grey, b: Grey, start: Floats) -> Agreement | None:
    """Refine a transform on the pixels, and tell how far the photographs agree under it.

    It leads from pixels of a to pixels of b, and is refined as an affine one, coarsely and then finely
    (Evangelidis and Psarakis, TPAMI 2008). What it was stays if they agree better under it: a caption may draw it
    aside. None if too little overlaps, or what does has too little texture.
    """
    overlap = _overlap(a, b, start)
    if overlap is None:
        return None
    transform = _affine(*overlap)
    found = [_agreement(a, b, transform)]
    for side in (_SHOWN // 4, _SHOWN):
        overlap = _overlap(a, b, transform)
        if overlap is None:
            break
        transform = _Frame(a, b, transform, overlap[1], side).refined()
        found.append(_agreement(a, b, transform))
        if all(each is None or each.score < _HOPEFUL for each in found):
            break
    return max((each for each in found if each is not None), key=lambda each: each.score, default=None)


def _agreement(a: Grey, b: Grey, transform: Floats) -> Agreement | None:
    overlap = _overlap(a, b, transform)
    if overlap is None:
        return None
    areas = [
        [cv2.contourArea(shape.astype(np.float32)) for shape in (outline, corners_of(side.content))]
        for side, outline in zip((a, b), overlap, strict=True)
    ]
    part_a, part_b = (min(1.0, part / whole) for part, whole in areas)
    patches = _Frame(a, b, transform, overlap[1], _SHOWN).patches()
    if len(patches) < _PATCHES:
        return None
    score, best = np.quantile(patches, (0.5, _BEST)).tolist()
    if min(part_a, part_b) >= _FRAME and score >= _COVERED:
        score = best
    return Agreement(score, *overlap, part_a, part_b, transform)


class _Frame:
    """Both photographs as they lie over each other where they overlap, on the coarser one's scale or less."""

    def __init__(self, a: Grey, b: Grey, transform: Floats, outline: Floats, side: int) -> None:
        start, stop = outline.min(axis=0), outline.max(axis=0)
        per_b = b.pixels.shape[1] / b.size[0]
        per_a = a.pixels.shape[1] / a.size[0] / np.sqrt(abs(np.linalg.det(transform[:2, :2])))
        zoom = min(side / (stop - start).max(), per_b, per_a)
        self._size = tuple(max(1, int(length)) for length in np.ceil((stop - start) * zoom))
        self._from_b = np.array([[zoom, 0, -zoom * start[0]], [0, zoom, -zoom * start[1]], [0, 0, 1]])
        self._from_a = self._from_b @ transform
        self._a, self._b = self._cut(a, self._from_a), self._cut(b, self._from_b)
        corners = np.rint((_moved(outline, self._from_b) - 0.5) * 8).astype(np.int32)
        self._mask = cv2.fillConvexPoly(np.zeros(self._a.shape, np.uint8), corners, 255, shift=3)

    def _cut(self, photo: Grey, transform: Floats) -> npt.NDArray[np.float32]:
        pixels = photo.pixels
        shrink = float(np.sqrt(abs(np.linalg.det((transform @ _grid(photo, pixels))[:2, :2]))))
        if shrink < 0.75:  # what is left out must not show up as moiré
            size = [max(1, round(length * shrink)) for length in pixels.shape[::-1]]
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = HALF @ transform @ _grid(photo, pixels) @ _WHOLE
        cut = cv2.warpAffine(pixels, matrix[:2], self._size, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(cut, np.float32)

    def refined(self) -> Floats:
        """Return the transform that lays a best over b; the one that was given if none is found."""
        affine = np.eye(2, 3, dtype=np.float32)
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _STEPS, 1e-4)
        if min(self._size) >= LEAST // 4:
            try:
                args = (self._b, self._a, affine.copy(), cv2.MOTION_AFFINE, criteria, self._mask, 5)
                affine = np.asarray(cv2.findTransformECC(*args)[1], np.float32)
            except cv2.error:  # it does not converge: they do not agree
                pass
        moved = _WHOLE @ np.vstack([affine, [0, 0, 1]]) @ HALF
        return np.asarray(np.linalg.solve(moved @ self._from_b, self._from_a), np.float64)

    def patches(self) -> Floats:
        """Return the normalised cross-correlation of patches, (N,); 0 where only one photograph has texture."""
        if min(self._size) < LEAST:
            return np.empty(0)
        mean_a, mean_b = (cv2.blur(side, _PATCH) for side in (self._a, self._b))
        vary_a, vary_b, vary = (
            cv2.blur(x * y, _PATCH) - mean_x * mean_y
            for x, y, mean_x, mean_y in (
                (self._a, self._a, mean_a, mean_a),
                (self._b, self._b, mean_b, mean_b),
                (self._a, self._b, mean_a, mean_b),
            )
        )
        spread = np.sqrt(np.maximum(vary_a, 0) * np.maximum(vary_b, 0))
        inside = cv2.erode(self._mask, np.ones(_PATCH, np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
        seen = (inside > 0) & (np.maximum(vary_a, vary_b) > _TEXTURE**2)
        return np.asarray(vary[seen] / np.maximum(spread[seen], 1.0))[:: _PATCH[0]]


def _grid(photo: Grey, pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return the transform of reduced pixels to those of the photograph."""
    return np.diag([photo.size[0] / pixels.shape[1], photo.size[1] / pixels.shape[0], 1.0])


def _overlap(a: Grey, b: Grey, transform: Floats) -> tuple[Floats, Floats] | None:
    """Return the outline of what both show, in pixels of either; None if there is none or it is too skewed."""
    frame = corners_of((0, 0, *a.size))
    corners = np.c_[frame, np.ones(4)] @ transform.T
    if not np.isfinite(corners).all() or (corners[:, 2] * corners[0, 2] <= 0).any():
        return None
    moved = corners[:, :2] / corners[:, 2:]
    axes = np.linalg.svd(_affine(frame, moved)[:2, :2], compute_uv=False)
    if not cv2.isContourConvex(moved.astype(np.float32)) or axes[1] <= 0 or axes[0] > _SKEW * axes[1]:
        return None
    clipped = np.c_[moved, np.ones(4)]
    for plane in ((1, 0, 0), (-1, 0, b.size[0]), (0, 1, 0), (0, -1, b.size[1])):
        clipped = cut(clipped, np.array(plane, np.float64))
    in_b = clipped[:, :2]
    return None if len(in_b) < 3 else (_moved(in_b, np.linalg.inv(transform)), in_b)


def corners_of(box: tuple[float, float, float, float]) -> Floats:
    """Return the corners of a box, x0, y0, x1, y1: (4, 2), clockwise from the upper left."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _moved(points: Floats, transform: Floats) -> Floats:
    return np.asarray(cv2.perspectiveTransform(points[None].astype(np.float64), transform)[0], np.float64)


def _affine(a: Floats, b: Floats) -> Floats:
    """Return the affine transform, (3, 3), of points a nearest to points b, by least squares."""
    solved, *_ = np.linalg.lstsq(np.c_[a, np.ones(len(a))], b, rcond=None)
    return np.vstack([solved.T, [0, 0, 1]])
