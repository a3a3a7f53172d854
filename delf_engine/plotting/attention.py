"""Where the attention lies on a photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.images import MAX_PIXELS, ImageSource, load_reduced
from delf_engine.plotting.canvas import GAP, QUIET, canvas, place_photo, shrunk, write
from delf_engine.support.arrays import check_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PHOTO_HEIGHT, _PHOTO_WIDTH = 560, 1100
_BAR_WIDTH, _BAR_MARGIN = 16, 88
# The scale ends at this percentile: one hot spot at the rim would leave the rest dark.
_TOP_PERCENTILE = 99.5


def draw_attention(
    image: ImageSource, score_map: npt.ArrayLike, *, title: str | None = None, max_pixels: int = MAX_PIXELS
) -> Figure:
    """Draw where the attention lies on a photograph, as a heat map with its scale.

    Parameters
    ----------
    image : path, bytes, PIL image or array
    score_map : (h, w) float
        A map of scores over the image, of any size.
    title : str or None
    max_pixels : int
        See `Extractor`.

    Raises
    ------
    ImageError
        If the image cannot be read.
    ConfigError
        If the map is no finite (h, w) array.
    """
    import matplotlib

    photo, _ = load_reduced(image, lambda _: _PHOTO_WIDTH, always=False, max_pixels=max_pixels)
    shown = shrunk(photo, height=_PHOTO_HEIGHT, width=_PHOTO_WIDTH)
    height, width = shown.shape[:2]
    heat = _heat(score_map, width, height)
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


def _heat(score_map: npt.ArrayLike, width: int, height: int) -> npt.NDArray[np.float64]:
    """Return an (height, width) map from 0 to 1."""
    import cv2

    scores = check_array("scores", score_map, np.float64, (None, None), error=ConfigError)
    if not scores.size:
        raise ConfigError(f"the map of scores is empty: its shape is {scores.shape}")
    heat = np.asarray(cv2.resize(scores, (width, height), interpolation=cv2.INTER_LINEAR))
    heat = heat - min(0.0, float(heat.min()))
    top = float(np.percentile(heat, _TOP_PERCENTILE)) or float(heat.max())
    return np.asarray(np.clip(heat / top, 0, 1) if top > 0 else heat, np.float64)
