"""Levels of the pyramid and their texture in torch, on any device: what `pyramid` and `content` do by OpenCV.

Pixels are those of OpenCV but for one grey level in 5 of 1,000 at most, where sums of floats round otherwise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

_KEPT = 64  # matrices of sizes seen last: 4 MB each at 1,024 px
_LEAST = 1e-3  # of a pixel: OpenCV leaves out what overlaps less
_GREY, _GREY_BITS = (9798, 19235, 3735), 15  # OpenCV's weights of red, green and blue
_UNIT = 2048  # 1 in OpenCV's fixed-point weights


def resized(images: Tensor, width: int, height: int, method: Literal["area", "bilinear"]) -> Tensor:
    """Resize (B, H, W, 3) uint8 to (B, height, width, 3) uint8; see `delf_engine.pyramid.resize`."""
    rows, columns = images.shape[1:3]
    if (rows, columns) == (height, width):
        return images
    planes = images.permute(0, 3, 1, 2)
    if method == "area" and width <= columns and height <= rows:
        vertical, horizontal = (
            _area_weights(*sizes, images.device) for sizes in ((rows, height), (columns, width))
        )
        sums = vertical @ planes.float() @ horizontal.T
        halves = (rows, columns) == (2 * height, 2 * width)  # of which OpenCV rounds .5 up, else to even
        pixels = ((sums + 0.5).floor_() if halves else sums.round_()).clamp_(0, 255)
    else:
        pixels = _bilinear(planes.int(), width, height)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def textured_cells(images: Tensor, stride: int, window: int, contrast: float, offset: float = 0) -> Tensor:
    """Tell at which cells (B, H, W, 3) uint8 images vary, (B, h, w) bool; see `content.textured`."""
    red, green, blue = (images[..., i].float() * _GREY[i] for i in range(3))
    # Whole numbers below 2^24, so that every step is exact; small ones: squares keep their digits.
    grey = ((red + green + blue + (1 << _GREY_BITS - 1)) / (1 << _GREY_BITS)).floor_() - 128
    down, across = (_window_counts(side, stride, window, int(offset), images.device) for side in images.shape[1:3])
    mean, square = (down @ values @ across.T / window**2 for values in (grey, grey * grey))
    return square - mean * mean >= contrast * contrast


@lru_cache(_KEPT)
def _area_weights(given: int, wanted: int, device: torch.device) -> Tensor:
    """Return the (wanted, given) shares of pixels that lie inside each wider one."""
    factor = given / wanted
    first = torch.arange(wanted, dtype=torch.float64, device=device)[:, None] * factor
    pixel = torch.arange(given, dtype=torch.float64, device=device)
    overlap = torch.minimum(first + factor, pixel + 1) - torch.maximum(first, pixel)
    whole = (given - first).clamp_max(factor)
    return torch.where(overlap > _LEAST, overlap / whole, 0.0).float()


def _bilinear(planes: Tensor, width: int, height: int) -> Tensor:
    """Interpolate (B, 3, H, W) int32 in OpenCV's fixed-point steps."""
    left, right, a, b = _neighbours(planes.shape[3], width, planes.device)
    rows = (planes[..., left] * a + planes[..., right] * b) >> 4
    above, below, a, b = _neighbours(planes.shape[2], height, planes.device)
    return (((rows[:, :, above] * a[:, None]) >> 16) + ((rows[:, :, below] * b[:, None]) >> 16) + 2) >> 2


@lru_cache(_KEPT)
def _neighbours(given: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of each pixel, (wanted,) indices of the two that it lies between, and their weights of 2,048."""
    centre = (torch.arange(wanted, dtype=torch.float64, device=device) + 0.5) * (given / wanted) - 0.5
    centre = centre.clamp_(0, given - 1)
    first = centre.floor()
    weight = ((centre - first) * _UNIT).round().int()
    return first.long(), (first.long() + 1).clamp_max(given - 1), _UNIT - weight, weight


@lru_cache(_KEPT)
def _window_counts(side: int, stride: int, window: int, offset: int, device: torch.device) -> Tensor:
    """Return how often each pixel counts in the window of each cell, (cells, side), reflected at the borders."""
    centres = (torch.arange(0, side, stride, device=device) + offset).clamp_max(side - 1)
    at = (centres[:, None] - window // 2 + torch.arange(window, device=device)) % (2 * side)
    at = torch.where(at < side, at, 2 * side - 1 - at)
    return (at[:, :, None] == torch.arange(side, device=device)).sum(1).float()
