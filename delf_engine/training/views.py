"""Augmented views of one photograph, with the homography that made each."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from delf_engine.config import Config
from delf_engine.images import load_reduced

Rgb = npt.NDArray[np.uint8]
Share = Annotated[float, Field(ge=0, le=1)]

_LONGEST = 2048  # side that training needs at most, of a photograph too large to be decoded whole
_REGION_CROP = (0.8, 1.6)  # side of a crop around a region, of the region's longer side
_REGION_SHIFT = 0.15  # largest shift of its centre, of its side
_SMALLEST_CROP = 0.2  # of the photograph's shorter side: smaller ones are blur


class ViewsConfig(Config):
    """Augmented views of each photograph."""

    count: Annotated[int, Field(ge=2)]  # views of each photograph, at least 2
    size: Annotated[int, Field(ge=64)]  # side of a view in pixels
    crop: tuple[Share, Share]  # (low, high): side of the crop, of the photograph's shorter side
    rotation_deg: Annotated[float, Field(ge=0)]  # largest rotation either way
    corner_jitter: Annotated[float, Field(ge=0, lt=0.4)]  # largest shift of each corner, of the crop's side
    aspect: Annotated[float, Field(ge=0, lt=1)]  # largest stretch of one side against the other
    grey: Share  # share of views without colour


def read_photograph(path: str) -> Rgb:
    """Read a photograph as (H, W, 3) uint8; a JPEG of more than 89 million pixels smaller than it is.

    An `ImageError` if it cannot be read, or is too large and no JPEG.
    """
    return load_reduced(path, lambda _: _LONGEST, always=False)[0]


def random_view(
    photo: Rgb,
    config: ViewsConfig,
    rng: np.random.Generator,
    *,
    region: tuple[float, float, float, float] | None = None,
) -> tuple[Rgb, npt.NDArray[np.float64]]:
    """Render a view of a photograph, (H, W, 3) uint8: a quadrilateral under other light, blur, noise and JPEG.

    With a `region`, x0, y0, x1, y1 in pixels of the photograph, the crop's side is 0.8 to 1.6 of the region's
    longer side and its centre near the region's; None: anywhere, by the options. Returned are the view, (size,
    size, 3) uint8, and the homography, (3, 3) float64, from pixels of the photograph to pixels of the view.
    """
    homography = _random_homography(photo.shape[1], photo.shape[0], config, rng, region)
    view = cv2.warpPerspective(
        photo, homography, (config.size, config.size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return _photometric(np.asarray(view, dtype=np.uint8), config, rng), homography


def _random_homography(
    width: int,
    height: int,
    config: ViewsConfig,
    rng: np.random.Generator,
    region: tuple[float, float, float, float] | None = None,
) -> npt.NDArray[np.float64]:
    short = min(width, height)
    side = rng.uniform(*config.crop) * short
    if region is not None:
        longer = max(region[2] - region[0], region[3] - region[1])
        side = float(np.clip(rng.uniform(*_REGION_CROP) * longer, _SMALLEST_CROP * short, short))
    stretch = np.exp(rng.uniform(-1, 1) * np.log1p(config.aspect))
    half = 0.5 * side * np.array([stretch**0.5, stretch**-0.5])
    angle = np.deg2rad(rng.uniform(-1, 1) * config.rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    corners = (corners + rng.uniform(-1, 1, (4, 2)) * config.corner_jitter * side) @ turn.T
    # Inside the photograph where it fits; a turned crop of full size may look over the edge.
    low, high = -corners.min(0), np.array([width - 1, height - 1]) - corners.max(0)
    if region is None:
        centre = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    else:
        middle = np.array([region[0] + region[2], region[1] + region[3]]) / 2
        centre = np.clip(middle + rng.uniform(-1, 1, 2) * _REGION_SHIFT * side, np.minimum(low, high), high)
    centre = np.where(high > low, centre, (low + high) / 2)
    last = config.size - 1
    target = np.array([[0, 0], [last, 0], [last, last], [0, last]], np.float32)
    return np.asarray(cv2.getPerspectiveTransform((corners + centre).astype(np.float32), target))


def _photometric(view: Rgb, config: ViewsConfig, rng: np.random.Generator) -> Rgb:
    x = view.astype(np.float32) / 255
    x = x ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))
    x = (x - 0.5) * np.float32(rng.uniform(0.7, 1.3)) + np.float32(0.5 + rng.uniform(-0.15, 0.15))
    x *= rng.uniform(0.88, 1.12, 3).astype(np.float32)
    grey = x.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < config.grey else rng.uniform(0.6, 1.4)
    x = grey + (x - grey) * np.float32(saturation)
    if rng.random() < 0.4:
        x *= _shadow(config.size, rng)
    if rng.random() < 0.4:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.5:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), x.shape).astype(np.float32)
    out = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    quality = int(rng.integers(20, 91))
    _, coded = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)


def _shadow(size: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Darken a half plane with a soft edge."""
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    distance = np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None] - offset
    edge = rng.uniform(0.005, 0.1)
    dark = 1 / (1 + np.exp(np.clip(-distance / edge, -30, 30)))
    return np.asarray(1 - rng.uniform(0.2, 0.6) * dark[..., None], dtype=np.float32)
