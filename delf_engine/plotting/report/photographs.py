"""Pictures inside a page: photographs by id, or the reason why there is none, and figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from delf_engine.errors import ImageError
from delf_engine.images import ImageSource, load_reduced
from delf_engine.plotting.canvas import Pixels, figure_pixels, shrunk
from delf_engine.plotting.report.document import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Images", "Photographs", "Picture", "figure_picture", "jpeg_picture", "small_photo"]

#: Where photographs come from by their id; None: an id is a path.
Images: TypeAlias = Mapping[str, ImageSource] | Callable[[str], ImageSource] | None

_THUMBNAIL = 320  # pixels: twice what a card shows, for fine screens
_THUMBNAIL_QUALITY, _FIGURE_QUALITY = 72, 84


@dataclass(frozen=True)
class Picture:
    """What stands in the place of a picture.

    Attributes
    ----------
    name : str
        What it shows, for those who cannot see it.
    source : str
        A data URI; empty if there is no picture.
    width, height : int
        In pixels.
    reason : str or None
        Why there is no picture; None if there is one.
    """

    name: str
    source: str = ""
    width: int = 0
    height: int = 0
    reason: str | None = None


class Photographs:
    """Photographs by id, and their thumbnails, each made once.

    Parameters
    ----------
    images : mapping or function from id to path, bytes, PIL image or array; or None
        None: ids are paths.
    """

    def __init__(self, images: Images) -> None:
        self._images = images
        self._thumbnails: dict[str, Picture] = {}

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

    def thumbnail(self, image_id: str) -> Picture:
        """Return a small copy of a photograph, or why there is none."""
        if image_id not in self._thumbnails:
            name = short_name(image_id)
            try:
                small, _ = small_photo(self.source(image_id), _THUMBNAIL)
                self._thumbnails[image_id] = jpeg_picture(small, name)
            except ImageError as error:
                self._thumbnails[image_id] = Picture(name, reason=error.reason)
        return self._thumbnails[image_id]


def small_photo(source: ImageSource, side: int) -> tuple[Pixels, tuple[int, int]]:
    """Return a photograph with its longer side at most `side` pixels, and its own (width, height).

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    photo, size = load_reduced(source, lambda size: side)
    side = min(side, max(photo.shape[:2]))  # small ones are not enlarged
    return shrunk(photo, height=side, width=side), size


def figure_picture(figure: Figure, name: str) -> Picture:
    """Return a figure as a picture."""
    return jpeg_picture(figure_pixels(figure), name, quality=_FIGURE_QUALITY)


def jpeg_picture(pixels: Pixels, name: str, *, quality: int = _THUMBNAIL_QUALITY) -> Picture:
    """Return (H, W, 3) uint8 RGB pixels as a picture: from pixels alone, so no EXIF of the camera goes with it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return Picture(name, f"data:image/jpeg;base64,{data}", width, height)
