"""Where the attention lies on a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.images import ImageSource, load_image
from delf_engine.plotting.canvas import CELL_PX, GAP, QUIET, canvas, photo_of, place_photo, shrunk, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from delf_engine.features import LocalFeatures

__all__ = ["draw_attention"]

Heat = npt.NDArray[np.float64]

_PHOTO_HEIGHT, _PHOTO_WIDTH = 560, 1100
_BAR_WIDTH, _BAR_MARGIN = 16, 88
# The scale ends at this percentile: one hot spot at the rim would leave the rest dark.
_TOP_PERCENTILE = 99.5


def draw_attention(
    image: ImageSource,
    features: LocalFeatures | None = None,
    *,
    score_map: npt.ArrayLike | None = None,
    title: str | None = None,
) -> Figure:
    """Draw where the attention lies on a photograph, as a heat map with its scale.

    Parameters
    ----------
    image : path, bytes, PIL image or array
    features : LocalFeatures or None
        Their scores are spread over the size of each feature and summed.
    score_map : (h, w) float or None
        A map of scores over the image, of any size, instead of `features`.
    title : str or None

    Raises
    ------
    ImageError
        If the image cannot be read.
    MismatchError
        If the features belong to an image of another size.
    ConfigError
        If not exactly one of `features` and `score_map` is given, or the map is no finite (h, w) array.
    """
    import matplotlib

    if (features is None) == (score_map is None):
        raise ConfigError("give either features or score_map")
    photo = load_image(image) if features is None else photo_of(image, features)
    shown = shrunk(photo, height=_PHOTO_HEIGHT, width=_PHOTO_WIDTH)
    height, width = shown.shape[:2]
    heat = (
        _heat_of_map(score_map, width, height) if features is None else _heat_of_features(features, width, height)
    )
    figure, axes, top = canvas(width + GAP + _BAR_MARGIN, height + GAP, title)

    colours = matplotlib.colormaps["turbo"]
    grey = np.repeat(shown.mean(axis=2, keepdims=True), 3, axis=2) / 255
    # Where nothing draws attention the photograph stays, grey; the colour covers more of it the hotter it is.
    cover = 0.7 * np.clip(heat * 1.6, 0, 1)[:, :, None]
    place_photo(axes, (1 - cover) * (0.1 + 0.8 * grey) + cover * colours(heat)[:, :, :3], GAP, top)

    left = width + 2 * GAP
    bar = np.repeat(np.linspace(1, 0, height)[:, None], _BAR_WIDTH, axis=1)
    place_photo(axes, np.asarray(colours(bar))[:, :, :3], left, top)
    for level, word in ((0.02, "low"), (0.98, "high")):
        write(axes, left + _BAR_WIDTH + 6, top + height * (1 - level), word, size=9, color=QUIET, align="left")
    axes.text(left + _BAR_WIDTH + 18, top + height / 2, "attention", fontsize=10, color=QUIET, rotation=90,
              ha="center", va="center")  # fmt: skip
    return figure


def _heat_of_features(features: LocalFeatures, width: int, height: int) -> Heat:
    """Return an (height, width) map from 0 to 1: each score spread as a Gaussian of its feature's size."""
    import cv2

    ratio = np.array([width, height]) / features.image_size
    cells = ((features.keypoints + 0.5) * ratio).clip(0, (width - 1, height - 1)).astype(int)
    heat = np.zeros((height, width))
    for scale in np.unique(features.scales):
        found = features.scales == scale
        spots = np.zeros((height, width))
        np.add.at(spots, (cells[found, 1], cells[found, 0]), np.maximum(features.scores[found], 0))
        sigma = float(np.clip(scale * CELL_PX * ratio.mean() / 2, 1, max(width, height)))
        heat += cv2.GaussianBlur(spots, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return _from_zero_to_one(heat)


def _heat_of_map(score_map: npt.ArrayLike | None, width: int, height: int) -> Heat:
    import cv2

    scores = np.asarray(score_map, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ConfigError(f"score_map must be a finite (h, w) array, got shape {scores.shape}")
    return _from_zero_to_one(np.asarray(cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR)))


def _from_zero_to_one(heat: Heat) -> Heat:
    heat = heat - min(0.0, float(heat.min()))
    top = float(np.percentile(heat, _TOP_PERCENTILE)) or float(heat.max())
    return np.clip(heat / top, 0, 1) if top > 0 else heat
