"""From a photograph to the pixels of its pyramid: all that comes before the network, and needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ImageError
from delf_engine.images import MAX_PIXELS, Box, ImageSource, crop, load_reduced, source_name
from delf_engine.pyramid import Level, plan_levels, resize

__all__ = ["Pyramid", "read_pyramid"]

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pyramid:
    """The pyramid of an image, or of a region of it.

    Attributes
    ----------
    image_size, region_size : (width, height)
        In pixels of the original image; the region is the whole of it unless a box was given.
    offset : (x, y)
        Top left corner of the region.
    levels : tuple of Level
    pixels : tuple of (h, w, 3) uint8
        Of each level.
    """

    image_size: tuple[int, int]
    region_size: tuple[int, int]
    offset: tuple[int, int]
    levels: tuple[Level, ...]
    pixels: tuple[Rgb, ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the levels: images that agree in them can share a batch."""
        return tuple((level.width, level.height) for level in self.levels)


def read_pyramid(
    source: ImageSource,
    config: ExtractionConfig,
    *,
    stride: int,
    box: Box | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pyramid:
    """Read an image and make its pyramid.

    Parameters
    ----------
    source : path, bytes, PIL image, or (H, W, 3) uint8 RGB array
    config : ExtractionConfig
    stride : int
        Of the network's feature map, in pixels of a level.
    box : x0, y0, x1, y1 or None
        Region of interest, in pixels: it keeps the scale that the whole image would have had.
    max_pixels : int
        Larger images are refused before decoding.

    Raises
    ------
    ImageError
        If the image cannot be read, or it or the box is smaller than `config.min_side` pixels.
    """
    name = source_name(source)

    def planned(region: tuple[int, int], whole: tuple[int, int]) -> list[Level]:
        return plan_levels(
            region,
            config.scales,
            max_image_size=config.max_image_size,
            min_side=config.min_side,
            whole_size=whole,
            fill_scales=config.fill_scales,
            fill_to=config.max_features,
            stride=stride,
        )

    def needed(size: tuple[int, int]) -> int:
        return max((max(level.width, level.height) for level in planned(size, size)), default=1)

    reduces = config.reduced_decoding and box is None
    image, image_size = load_reduced(source, needed if reduces else None, max_pixels=max_pixels)
    region_size, offset = image_size, (0, 0)
    if box is not None:
        image, offset = crop(image, box, name=name)
        region_size = (image.shape[1], image.shape[0])
    if min(region_size) < config.min_side:
        raise ImageError(
            name,
            f"{region_size[0]} x {region_size[1]} pixels are too few; each side needs at least {config.min_side}",
        )
    levels = planned(region_size, image_size)
    pixels = tuple(resize(image, level.width, level.height, config.resize) for level in levels)
    return Pyramid(image_size, region_size, offset, tuple(levels), pixels)
