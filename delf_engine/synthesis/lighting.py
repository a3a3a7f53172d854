"""Sky, sun and weather, and what lens, sensor and file make of a view."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.synthesis.painting import Picture, Random, grain, smooth
from delf_engine.synthesis.rendering import Canvas

__all__ = [
    "LIGHTS",
    "MILD",
    "Lens",
    "Light",
    "developed",
    "draw_lens",
    "draw_light",
    "draw_sky",
    "encoded",
    "finished",
]


@dataclass(frozen=True)
class _Weather:
    """Colours are shares of full brightness; haze is the share of light lost a metre."""

    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    elevation: tuple[float, float]
    zenith: tuple[int, int, int]
    horizon: tuple[int, int, int]
    clouds: float
    haze: tuple[float, float]
    saturation: float
    exposure: tuple[float, float]


LIGHTS: dict[str, _Weather] = {
    "clear": _Weather(
        (0.62, 0.58, 0.5),
        (0.5, 0.54, 0.6),
        (25, 65),
        (86, 134, 204),
        (190, 212, 232),
        0.35,
        (0, 0.0008),
        1.05,
        (0.9, 1.12),
    ),
    "evening": _Weather(
        (0.78, 0.55, 0.3),
        (0.42, 0.42, 0.5),
        (8, 25),
        (110, 130, 180),
        (246, 196, 140),
        0.4,
        (0, 0.002),
        1.1,
        (0.85, 1.05),
    ),
    "overcast": _Weather(
        (0.1, 0.1, 0.1),
        (0.82, 0.84, 0.86),
        (30, 60),
        (196, 202, 210),
        (222, 224, 226),
        0.6,
        (0, 0.002),
        0.75,
        (0.9, 1.05),
    ),
    "haze": _Weather(
        (0.25, 0.24, 0.22),
        (0.68, 0.7, 0.72),
        (20, 50),
        (198, 204, 210),
        (222, 224, 222),
        0.1,
        (0.012, 0.03),
        0.6,
        (0.95, 1.1),
    ),
    "dusk": _Weather(
        (0.1, 0.07, 0.06),
        (0.36, 0.4, 0.58),
        (2, 8),
        (52, 62, 110),
        (176, 128, 120),
        0.4,
        (0, 0.003),
        0.9,
        (0.7, 0.95),
    ),
    "night": _Weather(
        (0.05, 0.05, 0.08),
        (0.24, 0.24, 0.32),
        (20, 40),
        (14, 16, 32),
        (44, 40, 48),
        0.1,
        (0, 0.002),
        0.8,
        (0.75, 1.0),
    ),
}

_LAMPS = (0.5, 0.4, 0.24)  # what lights upright walls after dark

#: Lights that leave a photograph easy.
MILD = frozenset({"clear", "evening", "overcast"})


@dataclass(frozen=True, eq=False)
class Light:
    """One light of one moment.

    Attributes
    ----------
    kind : str
        One of `LIGHTS`.
    towards : (3,) float64
        Unit vector to the sun.
    haze : float
        Share of light lost a metre.
    exposure, contrast : float
    tint : (3,) float64
        White balance.
    lamps : float
        Brightness of the lamps that light walls after dark, 0 by day.
    """

    kind: str
    towards: npt.NDArray[np.float64]
    haze: float
    exposure: float
    contrast: float
    tint: npt.NDArray[np.float64]
    lamps: float

    def on(self, normal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return by what (3,) the colours of a surface are multiplied."""
        weather = LIGHTS[self.kind]
        sun = max(0.0, float(normal @ self.towards)) * 1.25 * np.array(weather.sun)
        return np.array(weather.ambient) + sun + self.lamps * (1 - abs(float(normal[2]))) * np.array(_LAMPS)


@dataclass(frozen=True)
class Lens:
    """Blur in pixels, noise in grey levels, darkness of the corners, JPEG quality."""

    blur: float
    noise: float
    vignette: float
    quality: int


def draw_light(rng: Random, kind: str, azimuth: float) -> Light:
    """Draw a light of that kind; the sun stands somewhere on the side of a camera at `azimuth` degrees."""
    weather = LIGHTS[kind]
    bearing, height = np.radians(azimuth + rng.uniform(-100, 100)), np.radians(rng.uniform(*weather.elevation))
    towards = np.array([np.sin(bearing) * np.cos(height), -np.cos(bearing) * np.cos(height), np.sin(height)])
    warm = rng.normal(0, 0.035)
    return Light(
        kind,
        towards,
        haze=rng.uniform(*weather.haze),
        exposure=rng.uniform(*weather.exposure),
        contrast=rng.uniform(0.85, 1.2),
        tint=np.array([1 + warm, 1.0, 1 - warm]),
        lamps=rng.uniform(0.4, 1.1) if kind == "night" else rng.uniform(0, 0.35) if kind == "dusk" else 0.0,
    )


def draw_lens(rng: Random, light: Light, *, poor: bool) -> Lens:
    """Draw a lens and a sensor, worse ones if `poor`, with more noise where it is dark."""
    dark = light.kind in ("dusk", "night")
    return Lens(
        blur=rng.uniform(0.9, 1.5) if poor else rng.uniform(0.45, 0.8),
        noise=rng.uniform(4, 9) if dark or poor else rng.uniform(1, 3.5),
        vignette=rng.uniform(0, 0.3),
        quality=int(rng.integers(45, 75) if poor else rng.integers(70, 93)),
    )


@functools.lru_cache(maxsize=1)
def _clouds() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(404)
    field = sum(smooth(rng, 512, 1024, 4 * 2**i, stretch=2.2) / 2**i for i in range(5))
    return np.clip(np.asarray(field, np.float32), 0, 2)


def draw_sky(rng: Random, canvas: Canvas, light: Light) -> None:
    """Fill the picture with a sky; everything else is drawn over it."""
    weather, (width, height) = LIGHTS[light.kind], canvas.camera.size
    clouds = _clouds()
    y, x = int(rng.integers(0, 256)), int(rng.integers(0, 512))
    small = (max(2, width // 2), max(2, height // 2))  # nothing in a sky is sharp
    part = cv2.resize(clouds[y : y + 256, x : x + 512], small, interpolation=cv2.INTER_LINEAR)
    down = np.linspace(0, 1, small[1], dtype=np.float32)[:, None, None]
    plain = np.array(weather.zenith, np.float32) * (1 - down) + np.array(weather.horizon, np.float32) * down
    white = np.array(weather.horizon, np.float32) * 0.3 + 172 * np.float32(sum(weather.ambient) / 2)
    share = np.minimum(weather.clouds * np.float32(rng.uniform(0.4, 1.2)) * part, 0.9)[:, :, None]
    sky = plain + (np.minimum(white, 250) - plain) * share
    canvas.picture[:] = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), (width, height))


def developed(rng: Random, canvas: Canvas, light: Light, lens: Lens) -> Picture:
    """Return the (H, W, 3) photograph of what a canvas shows."""
    picture = canvas.picture
    if light.haze > 0.0004:
        with np.errstate(divide="ignore"):
            kept = np.exp(-light.haze / np.maximum(canvas.nearness, 2e-3)).astype(np.float32)[:, :, None]
        veil = np.array(LIGHTS[light.kind].horizon, np.float32)
        picture = (picture * kept + veil * (1 - kept)).astype(np.uint8)
    return finished(rng, picture, light, lens)


def finished(rng: Random, picture: Picture, light: Light, lens: Lens) -> Picture:
    """Return what the lens and the sensor make of a picture (H, W, 3) in a light."""
    toned = _toned(picture, light)
    darkened = cv2.multiply(toned, _vignette(*toned.shape[:2], round(20 * lens.vignette)), scale=1 / 255)
    blurred = cv2.GaussianBlur(darkened, (0, 0), lens.blur)
    noise = grain(rng, picture.shape[0], picture.shape[1], lens.noise)
    return np.asarray(cv2.add(blurred, cv2.merge([noise, noise, noise]), dtype=cv2.CV_8U), np.uint8)


def _toned(picture: Picture, light: Light) -> Picture:
    saturation = LIGHTS[light.kind].saturation
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(picture, saturation, grey, 1 - saturation, 0)
    levels = np.arange(256)[:, None] / 255 * light.exposure * light.tint
    curve = np.clip(0.45 + (levels - 0.45) * light.contrast, 0, 1)
    return np.asarray(cv2.LUT(mixed, np.rint(255 * curve).astype(np.uint8)[None]), np.uint8)


@functools.lru_cache(maxsize=64)
def _vignette(height: int, width: int, strength: int) -> Picture:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    shade = 1 - strength / 20 * (x**2 + y**2) / 2
    return np.repeat((255 * shade).astype(np.uint8)[:, :, None], 3, axis=2)


def encoded(picture: Picture, quality: int) -> bytes:
    """Return the bytes of a JPEG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
