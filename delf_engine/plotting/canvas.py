"""The canvas that every picture is drawn on: axes in pixels, photographs, files."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, MismatchError
from delf_engine.images import MAX_PIXELS, ImageSource, load_image, source_name
from delf_engine.pyramid import resize
from delf_engine.support.files import check_target, replacing, system_errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from delf_engine.features import LocalFeatures
    from delf_engine.verification import Verification

Pixels = npt.NDArray[np.uint8]

GAP = 16
INK, QUIET, RULE = "#1f2328", "#656d76", "#d0d7de"
YES, UNSURE, NO = "#1a7f37", "#9a6700", "#b35900"
#: The verdicts of verifications.
COLOURS = {"same": YES, "unsure": UNSURE, "different": NO}
#: Least width of a canvas with a `verdict`.
VERDICT_WIDTH = 1000

_DPI = 100
_TITLE_HEIGHT = 52


def canvas(width: int, height: int, title: str | None = None) -> tuple[Figure, Axes, int]:
    """Return a white figure, axes that fill it in pixels from its upper left corner, and where content begins.

    `width` and `height` are in pixels; the title's height is added.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    top = GAP if title is None else _TITLE_HEIGHT
    height += top
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    if title is not None:
        axes.text(GAP, 30, title, fontsize=15, fontweight="bold", color=INK, va="center", parse_math=False)
    return figure, axes, top


def place_photo(axes: Axes, pixels: npt.NDArray[np.generic], left: float, top: float) -> Rectangle:
    """Put pixels on a canvas one to one, and return their outline."""
    from matplotlib.patches import Rectangle

    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(left, left + width, top + height, top), interpolation="none")
    return Rectangle((left, top), width, height, transform=axes.transData)


def write(
    axes: Axes, x: float, y: float, text: str, *, size: float, color: str = INK, align: str = "center"
) -> None:
    """Write text around a point as it is: ``$`` and ``_`` of a file name are no formula."""
    axes.text(x, y, text, fontsize=size, color=color, ha=align, va="center", parse_math=False)


def verdict(axes: Axes, verification: Verification, y: float) -> None:
    """Write the answer of a verification and its evidence along the foot of a canvas, around height `y`."""
    box = {"boxstyle": "round,pad=0.4", "facecolor": COLOURS[verification.verdict], "edgecolor": "none"}
    badge = axes.text(
        GAP + 8,
        y,
        _sentence(verification.answer),
        fontsize=13,
        fontweight="bold",
        color="white",
        va="center",
        bbox=box,
    )
    end = badge.get_window_extent().x1  # one unit of the axes is one pixel
    room = int((axes.get_xlim()[1] - end - 24 - GAP) / 8.2)  # letters of size 11
    write(axes, end + 24, y, "\n".join(wrap(_sentence(verification.why), max(20, room))), size=11, align="left")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def shrunk(photo: Pixels, *, height: float, width: float) -> Pixels:
    """Return a photograph resized to fit into `height` and `width` pixels, enlarged if it is smaller."""
    ratio = min(height / photo.shape[0], width / photo.shape[1])
    return resize(photo, max(1, round(photo.shape[1] * ratio)), max(1, round(photo.shape[0] * ratio)), "area")


def photo_of(image: ImageSource, features: LocalFeatures) -> Pixels:
    """Read the image that `features` were extracted from.

    An `ImageError` if it cannot be read; a `MismatchError` if it has another size than that of `features`.
    """
    width, height = features.image_size
    photo = load_image(image, max_pixels=max(MAX_PIXELS, width * height))  # it was read before
    size = (photo.shape[1], photo.shape[0])
    if size != features.image_size:
        raise MismatchError(
            f"{source_name(image)} has {size[0]} x {size[1]} pixels, its features are of an image of "
            f"{features.image_size[0]} x {features.image_size[1]}"
        )
    return photo


def inlier_keypoints(
    features_a: LocalFeatures, features_b: LocalFeatures, verification: Verification
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the keypoints of the inliers: (M, 2) x, y in pixels of A, and those in pixels of B.

    A `MismatchError` if the verification is not one of these features.
    """
    pairs = verification.matches
    if len(pairs) and (pairs.max(axis=0) >= (len(features_a), len(features_b))).any():
        raise MismatchError("the verification names features that are not there: it belongs to other images")
    a, b = (f.keypoints[pairs[:, i]].astype(np.float64) for i, f in enumerate((features_a, features_b)))
    return a, b


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, JPEG, PDF or SVG, as the ending of the name says, whole or not at all.

    Raises
    ------
    ConfigError
        If the format is not known, or the file cannot be written.
    """
    kind = check_picture(path)
    with system_errors(f"{path}: cannot be written", ConfigError), replacing(Path(path), durable=False) as partial:
        figure.savefig(partial, format=kind, dpi=_DPI)


def check_picture(path: str | os.PathLike[str]) -> str:
    """Return the format that the name of a picture tells; a `ConfigError` as of `save_figure`, before any work."""
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FigureCanvasBase.get_supported_filetypes():
        raise ConfigError(f"{path}: the name of a picture must end in .png, .jpg, .pdf or .svg")
    check_target(path, ConfigError)
    return kind


def figure_pixels(figure: Figure) -> Pixels:
    """Return a figure as an (H, W, 3) uint8 RGB array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
