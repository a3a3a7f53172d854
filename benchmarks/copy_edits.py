"""Edits of photographs whose geometry is known: what people do to copies, drawn at random by their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["EDITS", "HOSTED", "Box", "Edited", "edited"]

Pixels: TypeAlias = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[float, float, float, float]
#: The picture, where the original shows what it shows, and where it shows the original; None: all of it.
Edited: TypeAlias = tuple[Pixels, Box | None, Box | None]

_FRESH = (85, 95)  # JPEG qualities
_POOR = (15, 40)


def edited(kind: str, photo: Pixels, host: Pixels, rng: np.random.Generator) -> tuple[Edited, int]:
    """Return a photograph edited in one way, and the JPEG quality to save it with.

    Parameters
    ----------
    kind : str
        Of `EDITS`.
    photo, host : (H, W, 3) uint8
        Another photograph, to embed it in.
    rng : Generator
    """
    return EDITS[kind](photo, host, rng), int(rng.integers(*(_POOR if kind == "recompressed" else _FRESH)))


def _crop(least: float, most: float) -> Callable[[Pixels, Pixels, np.random.Generator], Edited]:
    def crop(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
        height, width = photo.shape[:2]
        side, stretch = np.sqrt(rng.uniform(least, most)), rng.uniform(0.9, 1.1)
        w, h = (
            min(length, round(length * part))
            for length, part in ((width, side * stretch), (height, side / stretch))
        )
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        return np.ascontiguousarray(photo[y : y + h, x : x + w]), (x, y, x + w, y + h), None

    return crop


def _embedded(least: float, most: float) -> Callable[[Pixels, Pixels, np.random.Generator], Edited]:
    def embedded(photo: Pixels, host: Pixels, rng: np.random.Generator) -> Edited:
        out, (height, width) = host.copy(), host.shape[:2]
        shrink = min(rng.uniform(least, most) * width / photo.shape[1], 0.95 * height / photo.shape[0])
        small = _resized(photo, shrink, shrink)
        h, w = small.shape[:2]
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        out[y : y + h, x : x + w] = small
        return out, None, (x, y, x + w, y + h)

    return embedded


def _resize(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    zoom = rng.choice([rng.uniform(0.3, 0.8), rng.uniform(1.3, 2)])
    return _resized(photo, zoom * rng.uniform(0.9, 1.1), zoom), None, None


def _same(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    return photo, None, None


def _framed(photo: Pixels, host: Pixels, rng: np.random.Generator) -> Edited:
    """Put one colour around it, or something with texture."""
    height, width = photo.shape[:2]
    edge = round(rng.uniform(0.04, 0.15) * max(height, width))
    frame = np.full((height + 2 * edge, width + 2 * edge, 3), rng.integers(0, 256, 3), np.uint8)
    if rng.random() < 0.5:
        frame = np.asarray(cv2.resize(host, frame.shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    frame[edge : edge + height, edge : edge + width] = photo
    return frame, None, (edge, edge, edge + width, edge + height)


def _captioned(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    """Write a few large lines over it, as on memes and watermarked previews."""
    out, (height, width) = photo.copy(), photo.shape[:2]
    for row in rng.choice([0.14, 0.35, 0.6, 0.9], size=int(rng.integers(1, 4)), replace=False):
        words = "".join(chr(letter) for letter in rng.integers(65, 91, 14))
        size = width / 330
        place = (round(0.04 * width), round(row * height))
        for colour, thick in (((0, 0, 0), 3 * size), ((255, 255, 255), size)):
            cv2.putText(out, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, max(1, round(2 * thick)))
    return out, None, None


def _coloured(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    """Change brightness, contrast, gamma and the strength of colours; some lose their colours."""
    values = photo.astype(np.float32) / 255
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = grey[..., None] + rng.choice([0.0, rng.uniform(0.3, 1.8)]) * (values - grey[..., None])
    values = np.clip(values, 0, 1) ** rng.uniform(0.6, 1.6)
    values = (values - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
    tint = rng.uniform(0.85, 1.15, 3)
    return np.clip(255 * values * tint, 0, 255).astype(np.uint8), None, None


def _turned(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    return np.ascontiguousarray(np.rot90(photo, int(rng.integers(1, 4)))), None, None


def _tilted(photo: Pixels, _: Pixels, rng: np.random.Generator) -> Edited:
    """Turn it by a few degrees, and cut off the corners that stay empty."""
    height, width = photo.shape[:2]
    angle = rng.choice([-1, 1]) * rng.uniform(2, 12)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    turned = cv2.warpAffine(photo, matrix, (width, height), flags=cv2.INTER_CUBIC)
    slope = np.tan(np.radians(abs(angle)))
    x, y = (int(np.ceil(0.5 * length * slope)) for length in (height, width))
    return np.ascontiguousarray(turned[y : height - y, x : width - x]), None, None


def _resized(photo: Pixels, across: float, down: float) -> Pixels:
    size = [max(1, round(length * zoom)) for length, zoom in zip(photo.shape[1::-1], (across, down), strict=True)]
    how = cv2.INTER_AREA if min(across, down) < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(photo, size, interpolation=how), np.uint8)


EDITS: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Edited]] = {
    "crop 5-10 %": _crop(0.05, 0.10),
    "crop 10-25 %": _crop(0.10, 0.25),
    "crop 25-50 %": _crop(0.25, 0.50),
    "crop 50-80 %": _crop(0.50, 0.80),
    "resized": _resize,
    "recompressed": _same,
    "framed": _framed,
    "captioned": _captioned,
    "coloured": _coloured,
    "embedded 20-40 %": _embedded(0.2, 0.4),
    "embedded 40-60 %": _embedded(0.4, 0.6),
    "turned": _turned,
    "tilted": _tilted,
}
#: Kinds that need another photograph.
HOSTED = {"framed", "embedded 20-40 %", "embedded 40-60 %"}
