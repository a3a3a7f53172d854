"""Crops of the published recipe (Noh et al., ICCV 2017): square, rescaled, a random window, a random size.

Stage 1 takes 224 of 250 pixels; stage 2 takes 720 of 900 and shrinks the window by a random factor, so that the
attention sees landmarks at many sizes.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from delf_engine.config import Config
from delf_engine.pyramid import resize

__all__ = ["CropConfig", "centre_crop", "draw_side", "random_crop"]

Rgb = npt.NDArray[np.uint8]


class CropConfig(Config):
    """How a training crop is taken.

    Attributes
    ----------
    square : int
        The largest centred square of the photograph is rescaled to this side, pixels.
    window : int
        Side of the window taken from it, pixels; at most `square`.
    smallest : float
        The window is rescaled by a factor drawn uniformly from `smallest` to 1. The paper says "at most 1" and
        no lower limit.
    """

    square: Annotated[int, Field(ge=16)]
    window: Annotated[int, Field(ge=16)]
    smallest: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> CropConfig:
        if self.window > self.square:
            raise ValueError(f"window = {self.window} is larger than square = {self.square}")
        if round(self.window * self.smallest) < 16:
            raise ValueError(f"smallest = {self.smallest} leaves windows below 16 pixels, one cell of the trunk")
        return self


def draw_side(config: CropConfig, rng: np.random.Generator) -> int:
    """Draw the side of the crops of one batch, pixels: one tensor holds them all, so they share the factor."""
    return round(config.window * rng.uniform(config.smallest, 1))


def random_crop(photo: Rgb, config: CropConfig, side: int, rng: np.random.Generator) -> Rgb:
    """Take a random window of the photograph's centred square.

    Parameters
    ----------
    photo : (H, W, 3) uint8
    config : CropConfig
    side : int
        Of the result, pixels; see `draw_side`.
    rng : numpy.random.Generator

    Returns
    -------
    (side, side, 3) uint8
    """
    x, y = rng.integers(0, config.square - config.window + 1, 2)
    return _window(photo, config, side, int(x), int(y))


def centre_crop(photo: Rgb, config: CropConfig) -> Rgb:
    """Take the window in the middle at its full size, (window, window, 3) uint8, as for measuring."""
    middle = (config.square - config.window) // 2
    return _window(photo, config, config.window, middle, middle)


def _window(photo: Rgb, config: CropConfig, side: int, x: int, y: int) -> Rgb:
    height, width = photo.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = resize(photo[top : top + edge, left : left + edge], config.square, config.square, "area")
    return np.ascontiguousarray(resize(square[y : y + config.window, x : x + config.window], side, side, "area"))
