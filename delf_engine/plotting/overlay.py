"""One photograph laid over the other as the transform between them says.

Pixel centres have whole coordinates, so an image of width W reaches from -0.5 to W - 0.5. Only the near side of
the transform's horizon is drawn: what lies behind it would appear mirrored, in places no camera saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.images import ImageSource, load_image
from delf_engine.plotting.canvas import (
    GAP,
    QUIET,
    VERDICT_WIDTH,
    canvas,
    inlier_keypoints,
    photo_of,
    place_photo,
    shrunk,
    verdict,
    write,
)
from delf_engine.pyramid import resize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification

OverlayMode: TypeAlias = Literal["blend", "checkerboard", "colours"]

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

_PHOTO_HEIGHT, _PHOTO_WIDTH = 640, 1100
_CAPTION_HEIGHT = 88
_SQUARES = 8  # of the checkerboard, along the shorter side
# In frames from -1 to 1: a transform of this condition number has flattened the photograph to a line.
_FLAT = 1e10
_BORDER, _POINT = "#ffd33d", "#ff5d8f"
_DESCRIPTIONS = {
    "blend": "A laid over B, half and half",
    "checkerboard": "squares of A and of B in turn",
    "colours": "A in red, B in cyan; grey where they agree",
}


def draw_overlay(
    image_a: ImageSource,
    image_b: ImageSource,
    verification: Verification,
    *,
    features: tuple[LocalFeatures, LocalFeatures] | None = None,
    mode: OverlayMode = "blend",
    caption: bool = True,
) -> Figure:
    """Draw photograph A laid over photograph B as the transform of a verification maps it.

    The picture is B's frame; the yellow line is the border of A as far as it lies inside. Where the transform is
    right, both show the same thing in the same place. A part of A behind the transform's horizon is left out. If
    there is no transform, or it flattens A to a line or moves it out of sight, B is shown alone and the caption
    says so.

    Parameters
    ----------
    image_a, image_b : path, bytes, PIL image or array
    verification : Verification
        Of these images in this order, with an affine map or a homography.
    features : (LocalFeatures, LocalFeatures) or None
        Of these images. With them the inliers are marked: a ring at the feature of B, and a line from it to where
        the transform puts that of A.
    mode : "blend", "checkerboard" or "colours"
        Both photographs half and half; squares of one and of the other in turn, whose edges show small shifts; or
        A in red, its brightness matched to B's, and B in cyan, so that what agrees is grey.
    caption : bool
        Write below it the answer, and what the picture shows.

    Returns
    -------
    matplotlib Figure
        What it shows stands in its label (``get_label()``) too.

    Raises
    ------
    ImageError
        If an image cannot be read.
    MismatchError
        If features or verification do not belong to these images.
    ConfigError
        If there is no such mode, or the model is ``fundamental``, which maps points to lines.
    """
    if mode not in get_args(OverlayMode):
        raise ConfigError(f"mode must be one of {', '.join(get_args(OverlayMode))}, got {mode!r}")
    if verification.model == "fundamental":
        raise ConfigError(
            "a fundamental matrix maps points to lines, so no photograph can be laid over the other by it; "
            "verify with an affine map or a homography, or draw the matches"
        )
    if features is None:
        photo_a, photo_b, ends = load_image(image_a), load_image(image_b), None
    else:
        photo_a, photo_b = photo_of(image_a, features[0]), photo_of(image_b, features[1])
        ends = inlier_keypoints(*features, verification)
    size_a, size_b = ((photo.shape[1], photo.shape[0]) for photo in (photo_a, photo_b))
    below = shrunk(photo_b, height=_PHOTO_HEIGHT, width=_PHOTO_WIDTH)
    shown = (below.shape[1], below.shape[0])

    centre = [((size_a[0] - 1) / 2, (size_a[1] - 1) / 2)]
    H = None
    if verification.transform is not None:
        H = oriented(verification.transform, centre if ends is None or not len(ends[0]) else ends[0])
    covered = np.zeros(shown[::-1], bool)
    if H is not None:
        above, covered = warped(photo_a, H, size_b, shown)
        below = _laid(above, below, covered, mode)

    description = _description(verification, covered, mode)
    width = max(shown[0] + 2 * GAP, VERDICT_WIDTH if caption else 0)
    figure, axes, top = canvas(width, shown[1] + (_CAPTION_HEIGHT if caption else GAP))
    figure.set_label(description)
    left = (width - shown[0]) / 2
    frame = place_photo(axes, below, left, top)
    if H is not None and covered.any():
        ratio = np.array(shown) / size_b
        _border(axes, (outline(H, size_a, size_b) + 0.5) * ratio + (left, top), frame)
        if ends is not None:
            mapped, found = ((p + 0.5) * ratio + (left, top) for p in (mapped_points(H, ends[0]), ends[1]))
            _points(axes, mapped, found, frame)
    if caption:
        verdict(axes, verification, top + shown[1] + 32)
        write(axes, GAP, top + shown[1] + 66, description, size=11, color=QUIET, align="left")
    return figure


def _laid(above: Pixels, below: Pixels, covered: Mask, mode: OverlayMode) -> Pixels:
    """Return A over B where it covers it, and B elsewhere."""
    if mode == "checkerboard":
        side = max(1, min(covered.shape) // _SQUARES)
        rows, columns = (np.arange(length) // side for length in covered.shape)
        covered = covered & ((rows[:, None] + columns[None, :]) % 2 == 0)
        mixed = above
    elif mode == "blend":
        mixed = ((above.astype(np.uint16) + below + 1) // 2).astype(np.uint8)
    else:
        red, cyan = _grey(above), _grey(below)
        mixed = np.rint(np.stack([_exposed(red, cyan, covered), cyan, cyan], axis=2)).astype(np.uint8)
    return np.where(covered[:, :, None], mixed, below)


def _grey(photo: Pixels) -> Floats:
    return np.asarray(photo @ np.array([0.299, 0.587, 0.114]))  # ITU-R BT.601


def _exposed(grey: Floats, like: Floats, covered: Mask) -> Floats:
    """Return a grey photograph as bright and as contrasty as another where it covers it.

    Without it another exposure would tint all that agrees.
    """
    if not covered.any():
        return grey
    spread, other = grey[covered].std(), like[covered].std()
    gain = np.clip(other / spread, 0.5, 2) if spread > 0 else 1.0
    return np.asarray(np.clip((grey - grey[covered].mean()) * gain + like[covered].mean(), 0, 255))


def _border(axes: Axes, corners: Floats, frame: Rectangle) -> None:
    from matplotlib.patches import Polygon

    if len(corners) < 3:
        return
    for colour, width in (((0.0, 0.0, 0.0, 0.5), 4.0), (_BORDER, 2.0)):
        line = Polygon(corners, closed=True, fill=False, edgecolor=colour, linewidth=width)
        axes.add_patch(line)
        line.set_clip_path(frame)


def _points(axes: Axes, mapped: Floats, found: Floats, frame: Rectangle) -> None:
    from matplotlib.collections import LineCollection

    near = np.isfinite(mapped).all(axis=1)
    lines = LineCollection(list(np.stack([mapped, found], axis=1)[near]), colors=_POINT, linewidths=1.2)
    axes.add_collection(lines)
    rings = axes.scatter(found[near, 0], found[near, 1], s=18, facecolors="none", edgecolors=_POINT, linewidths=1)
    for drawn in (lines, rings):
        drawn.set_clip_path(frame)


def _description(verification: Verification, covered: Mask, mode: OverlayMode) -> str:
    if verification.transform is None:
        return "B alone: no transform from A to B was found"
    if not covered.any():
        return "B alone: the transform flattens A or moves it out of sight"
    return f"{_DESCRIPTIONS[mode]}; A covers {100 * covered.mean():.0f} % of B"


def oriented(transform: npt.ArrayLike, points: npt.ArrayLike) -> Floats | None:
    """Return a transform scaled so that most of some points lie on the near side, where the third row is positive.

    A homography is the same for any factor, so that its own sign does not tell the near side from the far one.
    `points`, (N, 2), are of image A, one at least. None if the transform is not finite or all zeros.
    """
    H = np.asarray(transform, np.float64)
    largest = np.abs(H).max()
    if not np.isfinite(largest) or largest == 0:
        return None
    H = H / largest
    depths = np.asarray(points, np.float64) @ H[2, :2] + H[2, 2]
    return H if (depths > 0).sum() >= (depths < 0).sum() else -H


def warped(photo: Pixels, transform: Floats, size: Size, shown: Size) -> tuple[Pixels, Mask]:
    """Return photograph A as B's camera would have seen it, and where it covers B.

    `transform` leads from pixels of A to pixels of B, its near side positive (see `oriented`); `size` is (width,
    height) of B, `shown` that of the picture that B is resized to, and of both results: pixels, (h, w, 3) uint8,
    which mean nothing where A does not reach, and the cover, (h, w) bool, all false where the transform flattens
    A.
    """
    import cv2

    height, width = photo.shape[:2]
    back = _inverse(transform, (width, height), size)
    if back is None:
        return np.zeros((shown[1], shown[0], 3), np.uint8), np.zeros((shown[1], shown[0]), bool)
    back = back @ _resized(shown, size)
    with np.errstate(all="ignore"):
        u, v = np.arange(shown[0]), np.arange(shown[1])[:, None]
        x, y, depth = (row[0] * u + row[1] * v + row[2] for row in back)
        x, y = x / depth - (width - 1) / 2, y / depth - (height - 1) / 2
        # The inverse is near where the transform is: H (a / w) has the third coordinate 1 / w.
        covered = (depth > 0) & (np.abs(x) <= width / 2) & (np.abs(y) <= height / 2)
        # A step in the picture is the root of |det| / depth^3 pixels of A: A is shrunk by the median first.
        step = (
            float(np.sqrt(np.median(np.abs(np.linalg.det(back)) / depth[covered] ** 3))) if covered.any() else 1.0
        )
    ratio = 1 / step if np.isfinite(step) and step > 1 else 1.0
    small = resize(photo, max(1, round(width * ratio)), max(1, round(height * ratio)), "area")
    back = _resized((width, height), (small.shape[1], small.shape[0])) @ back
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpPerspective(small, back, shown, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, np.uint8), covered


def mapped_points(transform: Floats, points: npt.ArrayLike) -> Floats:
    """Return the (N, 2) points of B that points of A are mapped to; NaN for those behind the horizon."""
    with np.errstate(all="ignore"):
        found = np.asarray(points, np.float64) @ transform[:, :2].T + transform[:, 2]
        return np.where(found[:, 2:] > 0, found[:, :2] / found[:, 2:], np.nan)


def outline(transform: Floats, size_a: Size, size_b: Size) -> Floats:
    """Return the border of image A, (K, 2) in pixels of B, as far as it lies in B and a margin around it.

    It is cut to the near side of the horizon and to the margin before anything is divided, so that a corner at
    infinity is no special case (Sutherland and Hodgman 1974, in homogeneous coordinates). `transform` is that of
    `warped`.
    """
    width, height = size_a
    corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    polygon = corners @ transform[:, :2].T + transform[:, 2]
    margin = 0.1 * max(size_b)
    (left, top), (right, bottom) = (-margin, -margin), (size_b[0] + margin, size_b[1] + margin)
    for plane in ((0, 0, 1), (1, 0, -left), (-1, 0, right), (0, 1, -top), (0, -1, bottom)):
        polygon = cut(polygon, np.array(plane, np.float64))
    polygon = polygon[polygon[:, 2] > 0]
    # Rounding of extreme transforms may lead out of the margin again.
    return np.clip(polygon[:, :2] / polygon[:, 2:], (left, top), (right, bottom))


def cut(polygon: Floats, plane: Floats) -> Floats:
    """Return the part of a polygon of homogeneous points, (K, 3), on the positive side of a plane, (3,)."""
    kept: list[Floats] = []
    heights = polygon @ plane
    for i in range(len(polygon)):
        here, before = heights[i], heights[i - 1]
        if (here > 0) != (before > 0):
            share = before / (before - here)
            kept.append(polygon[i - 1] + share * (polygon[i] - polygon[i - 1]))
        if here > 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 3)


def _inverse(transform: Floats, size_a: Size, size_b: Size) -> Floats | None:
    """Return the inverse of a transform with its sign; None if it is singular for images of these sizes."""
    to_a, to_b = _from_unit(size_a), _from_unit(size_b)
    units = np.linalg.solve(to_b, transform @ to_a)
    if not np.linalg.cond(units) < _FLAT:
        return None
    return np.asarray(to_a @ np.linalg.inv(units) @ np.linalg.inv(to_b))


def _from_unit(size: Size) -> Floats:
    """Return the map from a frame of -1 to 1 to the pixels of an image."""
    half = max(size) / 2
    return np.array([[half, 0, (size[0] - 1) / 2], [0, half, (size[1] - 1) / 2], [0, 0, 1]], np.float64)


def _resized(size: Size, resized: Size) -> Floats:
    """Return the map from pixel centres of an image to those of the same image resized."""
    x, y = (new / old for new, old in zip(resized, size, strict=True))
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)
