"""Pictures inside a page: thumbnails, figures, and the frame that stands for a photograph that is gone."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ImageError
from delf_engine.images import Box, ImageSource, load_reduced
from delf_engine.plotting.page import figure_pixels, shrunk
from delf_engine.plotting.report.markup import short_name, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Images", "Photographs", "boxed_html", "figure_html", "gone_html", "thumbnail_html"]

#: Where photographs come from by their id; None: an id is a path.
Images: TypeAlias = Mapping[str, ImageSource] | Callable[[str], ImageSource] | None

_THUMBNAIL = 320  # pixels: twice what a card shows, for fine screens
_BOXED = 560  # of a photograph with a box
_BOX_COLOUR, _OUTSIDE = (255, 212, 0), 0.5  # the frame of a box, and how bright is what lies outside
_THUMBNAIL_QUALITY, _FIGURE_QUALITY = 72, 84


class Photographs:
    """Photographs by id, and their thumbnails, each made once.

    Parameters
    ----------
    images : mapping or function from id to path, bytes, PIL image or array; or None
        None: ids are paths.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._made: dict[str, str] = {}

    def source(self, image_id: str) -> ImageSource:
        """Return what a photograph can be read from.

        Raises
        ------
        ImageError
            If it is not known.
        """
        if self._images is None:
            return image_id
        if callable(self._images):
            return self._images(image_id)
        if image_id not in self._images:
            raise ImageError(image_id, "is not among the images given")
        return self._images[image_id]

    def thumbnail(self, image_id: str) -> str:
        """Return the HTML of a thumbnail, or of a frame that says why there is none."""
        if image_id not in self._made:
            try:
                self._made[image_id] = thumbnail_html(self.source(image_id), short_name(image_id))
            except ImageError as error:
                self._made[image_id] = gone_html(short_name(image_id), error.reason)
        return self._made[image_id]


def thumbnail_html(source: ImageSource, name: str) -> str:
    """Return a small copy of a photograph as an ``img`` element that holds it.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    photo, _ = load_reduced(source, lambda size: _THUMBNAIL)
    side = min(_THUMBNAIL, max(photo.shape[:2]))  # small ones are not enlarged
    return _img(shrunk(photo, height=side, width=side), name, _THUMBNAIL_QUALITY)


def boxed_html(source: ImageSource, name: str, box: Box | None) -> str:
    """Return a copy of a photograph, larger than a thumbnail, with a box framed and its surroundings darkened.

    Parameters
    ----------
    source : path, bytes, PIL image or array
    name : str
    box : (x0, y0, x1, y1) or None
        In pixels of the photograph, four finite numbers; x1, y1 are exclusive.

    Raises
    ------
    ImageError
        If the photograph cannot be read, or nothing of it lies inside the box.
    """
    photo, size = load_reduced(source, lambda size: _BOXED)
    side = min(_BOXED, max(photo.shape[:2]))
    small = shrunk(photo, height=side, width=side)
    if box is not None:
        small = _framed(small, size, name, box)
    return _img(small, name, _THUMBNAIL_QUALITY)


def _framed(small: npt.NDArray[np.uint8], size: tuple[int, int], name: str, box: Box) -> npt.NDArray[np.uint8]:
    """Return a photograph shrunk from `size` with a box in pixels of that size."""
    height, width = small.shape[:2]
    x0, x1 = (min(max(x, 0.0), size[0]) * width / size[0] for x in (box[0], box[2]))
    y0, y1 = (min(max(y, 0.0), size[1]) * height / size[1] for y in (box[1], box[3]))
    if x1 <= x0 or y1 <= y0:
        stated = ", ".join(f"{value:g}" for value in box)
        raise ImageError(name, f"box {stated} holds no pixel of the {size[0]} x {size[1]} image")
    rows = slice(int(y0), max(int(np.ceil(y1)), int(y0) + 1))
    columns = slice(int(x0), max(int(np.ceil(x1)), int(x0) + 1))
    framed = (small * _OUTSIDE).astype(np.uint8)
    framed[rows, columns] = _BOX_COLOUR
    inner = (slice(rows.start + 3, rows.stop - 3), slice(columns.start + 3, columns.stop - 3))
    framed[inner] = small[inner]
    return framed


def gone_html(name: str, reason: str) -> str:
    """Return a frame in the place of a photograph that cannot be shown."""
    return f'<div class="gone"><b>{text(name)}</b><span>{text(reason)}</span></div>'


def figure_html(figure: Figure, alt: str, caption: str) -> str:
    """Return a figure as a picture with a caption below."""
    picture = _img(figure_pixels(figure), alt, _FIGURE_QUALITY)
    return f"<figure>{picture}<figcaption>{text(caption)}</figcaption></figure>"


def _img(pixels: npt.NDArray[np.uint8], alt: str, quality: int) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    # From pixels alone: no EXIF, so no place and no owner of the camera, goes into the page.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(alt)}" width="{width}" height="{height}">'
