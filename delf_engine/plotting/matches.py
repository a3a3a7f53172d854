"""Two photographs side by side, joined by the features that agree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.images import ImageSource
from delf_engine.plotting.canvas import (
    GAP,
    QUIET,
    VERDICT_WIDTH,
    canvas,
    inlier_keypoints,
    photo_of,
    place_photo,
    save_figure,
    shrunk,
    verdict,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification

Floats = npt.NDArray[np.floating]

_PHOTO_HEIGHT, _MAX_WIDTH = 560, 2000
_CAPTION_HEIGHT = 62
_MOST_LINES = 120
_CELL_PX = 16  # side of a cell of the finest feature map, in pixels: the size of a feature of scale 1


def draw_matches(
    image_a: ImageSource,
    image_b: ImageSource,
    features_a: LocalFeatures,
    features_b: LocalFeatures,
    verification: Verification,
    *,
    labels: tuple[str, str] | None = None,
    height: int = _PHOTO_HEIGHT,
    caption: bool = True,
) -> Figure:
    """Draw two photographs side by side with lines between the features that agree.

    A line takes its colour from where it starts in A, so neighbouring features have neighbouring colours and a
    right answer shows as a rainbow that keeps its order. Circles have the size of their features. Of more than 120
    inliers so many are drawn, spread evenly over them; the caption counts all.

    Parameters
    ----------
    image_a, image_b : path, bytes, PIL image or array
    features_a, features_b : LocalFeatures
        Features of these images.
    verification : Verification
        Verification of these features, in this order.
    labels : (str, str) or None
        Names under the photographs.
    height : int
        Of the photographs in pixels; less where both together would be wider than 2000.
    caption : bool
        Write the answer and the count of inliers below.

    Raises
    ------
    ImageError
        If an image cannot be read.
    MismatchError
        If features or verification do not belong to these images.
    ConfigError
        If `height` is below 1.
    """
    if height < 1:
        raise ConfigError(f"height must be at least 1, got {height}")
    photos = photo_of(image_a, features_a), photo_of(image_b, features_b)
    keypoints = inlier_keypoints(features_a, features_b, verification)

    aspects = [photo.shape[1] / photo.shape[0] for photo in photos]
    tall = min(height, (_MAX_WIDTH - 3 * GAP) / sum(aspects))
    sides = [shrunk(photo, height=tall, width=_MAX_WIDTH) for photo in photos]
    used = 3 * GAP + sum(side.shape[1] for side in sides)
    label_height = 28 if labels else 0
    below = label_height + (_CAPTION_HEIGHT if caption else 0 if labels else GAP)
    width = max(used, VERDICT_WIDTH) if caption else used
    figure, axes, top = canvas(width, round(tall) + below)
    foot = top + round(tall)

    shown = np.linspace(0, verification.inliers - 1, min(_MOST_LINES, verification.inliers)).round().astype(int)
    colours = _colours(keypoints[0][shown])
    left = GAP + (width - used) / 2
    ends = []
    for column, (photo, side, features) in enumerate(zip(photos, sides, (features_a, features_b), strict=True)):
        outline = place_photo(axes, side, left, top)
        ratio = np.array([side.shape[1] / photo.shape[1], side.shape[0] / photo.shape[0]])
        ends.append((keypoints[column][shown] + 0.5) * ratio + (left, top))
        radii = features.scales[verification.matches[shown, column]] * (_CELL_PX / 2 * ratio.mean())
        _circles(axes, ends[-1], radii, colours, outline)
        if labels:
            write(axes, left + side.shape[1] / 2, foot + 16, labels[column], size=10, color=QUIET)
        left += side.shape[1] + GAP
    _lines(axes, np.stack(ends, axis=1), colours)
    if caption:
        verdict(axes, verification, foot + label_height + _CAPTION_HEIGHT / 2)
    return figure


def save_matches(
    path: str | os.PathLike[str],
    image_a: ImageSource,
    image_b: ImageSource,
    features_a: LocalFeatures,
    features_b: LocalFeatures,
    verification: Verification,
    **options: Any,
) -> None:
    """Write the picture of `draw_matches` to a file.

    Parameters
    ----------
    path : path
        As for `save_figure`, and so are the errors.
    image_a, image_b, features_a, features_b, verification
        As for `draw_matches`, which takes `options` as well.
    """
    save_figure(draw_matches(image_a, image_b, features_a, features_b, verification, **options), path)


def _colours(keypoints: Floats) -> Floats:
    """Return (N, 4) colours along the diagonal of the image, by rank, so that crowded places differ too."""
    import matplotlib

    along = keypoints @ np.array([1.0, 0.5])
    rank = np.argsort(np.argsort(along, kind="stable"), kind="stable") / max(1, len(along) - 1)
    return np.asarray(matplotlib.colormaps["turbo"](0.06 + 0.88 * rank))


def _circles(axes: Axes, centres: Floats, radii: Floats, colours: Floats, outline: Rectangle) -> None:
    from matplotlib.collections import EllipseCollection

    # A dark rim below each keeps them readable on a bright sky.
    for width, edges in ((2.2, [(0.0, 0.0, 0.0, 0.4)]), (1.1, list(colours))):
        circles = EllipseCollection(
            2 * radii,
            2 * radii,
            np.zeros(len(radii)),
            units="xy",
            offsets=centres,
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=edges,
            linewidths=width,
        )
        axes.add_collection(circles)
        circles.set_clip_path(outline)


def _lines(axes: Axes, segments: Floats, colours: Floats) -> None:
    from matplotlib.collections import LineCollection

    width = 1.0 if len(segments) > 60 else 1.4
    for rim, edges in ((1.0, [(0.0, 0.0, 0.0, 0.3)]), (0.0, list(colours))):
        axes.add_collection(LineCollection(list(segments), colors=edges, linewidths=width + rim))
