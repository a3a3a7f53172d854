"""Frames and overlays that photographs wear: screenshots, captions, letterboxes, scans, stills from television.

Each is a function of a photograph's pixels, (H, W, 3) uint8, that returns the photograph wearing it; two
photographs of one shape wear the same.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

__all__ = ["OVERLAYS"]

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (96, 96, 96)


def _margins(pixels: Pixels, colour: Colour, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Return a photograph on a larger sheet; margins are parts of its width and height."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (
        round(p * side) for p, side in zip((left, top, right, bottom), (width, height) * 2, strict=True)
    )
    sheet = Image.new("RGB", (width + x0 + x1, height + y0 + y1), colour)
    sheet.paste(Image.fromarray(pixels), (x0, y0))
    return sheet


def _written(
    sheet: Image.Image, text: str, x: float, y: float, size: float, colour: Colour, edge: int = 0
) -> None:
    """Write text at parts of width and height, `size` of the width high."""
    font = ImageFont.load_default(max(6, round(size * sheet.width)))
    where = x * sheet.width, y * sheet.height
    ImageDraw.Draw(sheet).text(
        where, text, fill=colour, font=font, anchor="lm", stroke_width=edge, stroke_fill=_BLACK
    )


def _screenshot(pixels: Pixels) -> Image.Image:
    sheet = _margins(pixels, _WHITE, 0, 0.22, 0, 0.3)
    pen, (w, h) = ImageDraw.Draw(sheet), sheet.size
    _written(sheet, "09:41      LTE  87 %", 0.04, 0.02, 0.035, _BLACK)
    pen.ellipse([0.03 * w, 0.05 * h, 0.12 * w, 0.05 * h + 0.09 * w], fill=(200, 60, 90))
    _written(sheet, "travel.and.more", 0.15, 0.075, 0.045, _BLACK)
    _written(sheet, "Follow  ...", 0.76, 0.075, 0.045, (0, 110, 230))
    for i in range(4):
        x, y = (0.05 + 0.12 * i) * w, 0.83 * h
        pen.regular_polygon((x + 0.03 * w, y, 0.03 * w), 3 + i, outline=_BLACK, width=max(1, w // 150))
    _written(sheet, "1,204 likes", 0.04, 0.88, 0.04, _BLACK)
    _written(sheet, "travel.and.more  what a view! #holiday #sun", 0.04, 0.91, 0.036, _BLACK)
    for i in range(5):
        x = (0.06 + 0.2 * i) * w
        pen.rectangle([x, 0.95 * h, x + 0.06 * w, 0.985 * h], outline=_BLACK, width=max(1, w // 120))
    return sheet


def _meme(pixels: Pixels) -> Image.Image:
    sheet = Image.fromarray(pixels)
    _written(sheet, "WHEN YOU FINALLY", 0.08, 0.09, 0.095, _WHITE, edge=2)
    _written(sheet, "GO ON HOLIDAY", 0.14, 0.91, 0.095, _WHITE, edge=2)
    return sheet


def _ornate(pixels: Pixels) -> Image.Image:
    sheet = _margins(pixels, (120, 84, 30), 0.1, 0.1, 0.1, 0.1)
    pen, (w, h) = ImageDraw.Draw(sheet), sheet.size
    step = 0.055 * min(w, h)
    for x in np.arange(step / 2, w, step):
        for y in np.arange(step / 2, h, step):
            if min(x, y, w - x, h - y) < 0.085 * min(w, h):
                pen.regular_polygon((x, y, 0.45 * step), 5, fill=(212, 170, 70), outline=(60, 40, 10))
                pen.ellipse([x - step / 6, y - step / 6, x + step / 6, y + step / 6], fill=(90, 20, 20))
    return sheet


def _rounded(pixels: Pixels) -> Image.Image:
    height, width = pixels.shape[:2]
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rounded_rectangle([0, 0, width - 1, height - 1], 0.12 * min(width, height), fill=255)
    sheet = Image.new("RGB", (width, height), _WHITE)
    sheet.paste(Image.fromarray(pixels), (0, 0), mask)
    return sheet


def _scanned(pixels: Pixels) -> Image.Image:
    """Paper, slightly turned, with the noise and the dark edge of a scanner."""
    paper = _margins(pixels, (246, 243, 236), 0.12, 0.07, 0.05, 0.1).rotate(
        0.6, Image.Resampling.BILINEAR, fillcolor=_GREY
    )
    values = np.asarray(paper).astype(np.float32)
    values += np.random.default_rng(0).normal(0, 1.5, values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _television(pixels: Pixels) -> Image.Image:
    sheet = Image.fromarray(pixels)
    pen, (w, h) = ImageDraw.Draw(sheet), sheet.size
    pen.rectangle([0, 0.8 * h, w, 0.9 * h], fill=(180, 20, 30))
    pen.rectangle([0, 0.9 * h, w, h], fill=(20, 30, 80))
    _written(sheet, "BREAKING  Travellers arrive in great numbers", 0.03, 0.85, 0.038, _WHITE)
    _written(sheet, "21:04   markets +0.4 %   weather: sunny, 24 degrees", 0.03, 0.95, 0.03, (255, 220, 0))
    pen.rectangle([0.86 * w, 0.04 * h, 0.97 * w, 0.12 * h], fill=(180, 20, 30))
    _written(sheet, "NEWS", 0.87, 0.08, 0.032, _WHITE)
    return sheet


def _subtitled(pixels: Pixels) -> Image.Image:
    sheet = Image.fromarray(pixels)
    _written(sheet, "- Have you ever been here before?", 0.14, 0.87, 0.042, _WHITE, edge=1)
    _written(sheet, "- Not that I remember.", 0.27, 0.94, 0.042, _WHITE, edge=1)
    return sheet


def _watermarked(pixels: Pixels) -> Image.Image:
    """Write a stock agency's name, half transparent, again and again."""
    below = Image.fromarray(pixels)
    above = below.copy()
    for row in range(4):
        for column in range(2):
            _written(above, "stockphoto", 0.06 + 0.5 * column, 0.14 + 0.24 * row, 0.07, _WHITE)
    return Image.blend(below, above, 0.35)


def _film(pixels: Pixels) -> Image.Image:
    sheet = _margins(pixels, (16, 14, 12), 0, 0.14, 0, 0.14)
    pen, (w, h) = ImageDraw.Draw(sheet), sheet.size
    for x in np.arange(0.02, 1, 0.075):
        for y in (0.02, 0.915):
            box = [x * w, y * h, (x + 0.04) * w, (y + 0.065) * h]
            pen.rounded_rectangle(box, 0.01 * w, fill=(235, 235, 230))
    return sheet


def _stamped(pixels: Pixels) -> Image.Image:
    """Burn in the date, as cameras do."""
    sheet = Image.fromarray(pixels)
    _written(sheet, "2004 08 17  14:32", 0.6, 0.93, 0.045, (255, 140, 20), edge=1)
    return sheet


def _player(pixels: Pixels) -> Image.Image:
    """Lay a video player's controls over the picture."""
    sheet = Image.fromarray(pixels)
    pen, (w, h) = ImageDraw.Draw(sheet), sheet.size
    side = min(w, h)
    pen.ellipse(
        [w / 2 - 0.1 * side, h / 2 - 0.1 * side, w / 2 + 0.1 * side, h / 2 + 0.1 * side], fill=(30, 30, 30)
    )
    pen.regular_polygon((w / 2, h / 2, 0.06 * side), 3, rotation=270, fill=_WHITE)
    pen.rectangle([0.03 * w, 0.9 * h, 0.97 * w, 0.915 * h], fill=(150, 150, 150))
    pen.rectangle([0.03 * w, 0.9 * h, 0.35 * w, 0.915 * h], fill=(230, 0, 0))
    _written(sheet, "1:12 / 3:40", 0.05, 0.955, 0.032, _WHITE, edge=1)
    return sheet


_KINDS: dict[str, Callable[[Pixels], Image.Image]] = {
    "phone screenshot": _screenshot,
    "meme caption": _meme,
    "ornate frame": _ornate,
    "white frame 8 %": lambda pixels: _margins(pixels, _WHITE, 0.08, 0.08, 0.08, 0.08),
    "black frame 8 %": lambda pixels: _margins(pixels, _BLACK, 0.08, 0.08, 0.08, 0.08),
    "coloured frame 15 %": lambda pixels: _margins(pixels, (30, 90, 160), 0.15, 0.15, 0.15, 0.15),
    "letterbox": lambda pixels: _margins(pixels, _BLACK, 0, 0.25, 0, 0.25),
    "pillarbox": lambda pixels: _margins(pixels, _BLACK, 0.3, 0, 0.3, 0),
    "instant photograph": lambda pixels: _margins(pixels, (240, 238, 230), 0.06, 0.06, 0.06, 0.25),
    "rounded corners": _rounded,
    "scanner margin": _scanned,
    "television strip": _television,
    "subtitles": _subtitled,
    "watermark": _watermarked,
    "film strip": _film,
    "date stamp": _stamped,
    "video player": _player,
}

#: By name, from the pixels of a photograph to those of the photograph wearing it.
OVERLAYS: dict[str, Callable[[Pixels], Pixels]] = {
    name: lambda pixels, draw=draw: np.asarray(draw(pixels), np.uint8)  # type: ignore[misc]
    for name, draw in _KINDS.items()
}
