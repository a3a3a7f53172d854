"""Geometry of the image pyramid: sizes of the levels, resizing, and cell centres in pixels of the image.

Pixel centres have whole coordinates, the top left one (0, 0). A level of width w made from an image of width W
maps its pixel u to (u + 0.5) W / w - 0.5 of the image. In a trunk of torchvision's ResNet family every kernel
pads by half its size, so cell j of a map of stride s is centred on pixel s j of its level: the receptive field
of conv4 has size 211 and padding 105 in ResNet-18, 267 and 133 in ResNet-50, and (size - 1) / 2 = padding. A patch
of a ViT is centred (s - 1) / 2 pixels further: its `offset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Level:
    """One level of the pyramid: its scale relative to the original image, and its size in pixels."""

    scale: float
    width: int
    height: int


def plan_levels(
    image_size: tuple[int, int],
    scales: Sequence[float],
    *,
    max_image_size: int | None,
    min_side: int,
    min_image_size: int = 0,
    whole_size: tuple[int, int] | None = None,
    fill_scales: Sequence[float] = (),
    fill_to: int = 0,
    stride: int = 16,
) -> list[Level]:
    """Return the levels of an image's pyramid, finest last if `scales` ascend.

    Parameters
    ----------
    image_size : (width, height)
        Of the image or the crop.
    scales : sequence of float
        Relative to the input size, which is the image's own unless `max_image_size` shrinks it or
        `min_image_size` enlarges it.
    max_image_size : int or None
        Longer side of the whole image at scale 1, at most.
    min_side : int
        Levels whose shorter side is below it are left out.
    min_image_size : int
        Longer side of the whole image at scale 1, at least: smaller photographs are enlarged.
    whole_size : (width, height) or None
        Of the whole image when `image_size` is that of a crop: a crop keeps the scale that the whole
        image would have had.
    fill_scales : sequence of float
        Further levels for small images and crops, taken in order and only while those so far have fewer
        than `fill_to` cells together: a crop of 300 pixels has not enough cells at coarse scales to be
        matched by.
    fill_to : int
        Cells.
    stride : int
        Of the feature map, in pixels of a level.
    """
    width, height = image_size
    longest = max(whole_size or image_size)
    base = 1.0 if max_image_size is None else min(1.0, max_image_size / longest)
    base = max(base, min_image_size / longest)

    def level(scale: float) -> Level:
        return Level(base * scale, max(1, round(width * base * scale)), max(1, round(height * base * scale)))

    levels = [one for one in map(level, scales) if min(one.width, one.height) >= min_side]
    cells = sum(cell_count(one, stride=stride) for one in levels)
    for one in map(level, fill_scales):
        if cells >= fill_to:
            break
        if min(one.width, one.height) >= min_side:
            levels.append(one)
            cells += cell_count(one, stride=stride)
    return levels


def cell_count(level: Level, *, stride: int) -> int:
    """Return the number of cells of the level's feature map; both sides are rounded up."""
    return -(-level.width // stride) * -(-level.height // stride)


def resize(
    image: npt.NDArray[np.uint8], width: int, height: int, method: Literal["area", "bilinear"]
) -> npt.NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 image; `method` is the filter for shrinking, growing is bilinear."""
    import cv2

    if (image.shape[1], image.shape[0]) == (width, height):
        return np.require(image, requirements=["C", "W"])  # torch does not take read-only memory
    shrinks = width <= image.shape[1] and height <= image.shape[0]
    interpolation = cv2.INTER_AREA if method == "area" and shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def cell_centres(
    cells: npt.NDArray[np.integer], level: Level, image_size: tuple[int, int], *, stride: int, offset: float = 0
) -> npt.NDArray[np.float32]:
    """Return the centres of feature-map cells in pixels of the image that the level was made from.

    Parameters
    ----------
    cells : (N, 2) int
        Column and row of each cell.
    image_size : (width, height)
        Of the image or crop that was resized to `level`.
    stride : int
        Of the feature map, in pixels of the level.
    offset : float
        Of the centre of the first cell, in pixels of the level. Centres beyond the level, of cells that are mostly
        padding, are moved to its last pixel.

    Returns
    -------
    (N, 2) float32
        x, y.
    """
    size = np.array([level.width, level.height])
    places = np.minimum(cells * float(stride) + offset, size - 1)
    return ((places + 0.5) * (np.array(image_size) / size) - 0.5).astype(np.float32)
