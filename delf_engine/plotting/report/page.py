"""What every page is made of: templates with names made safe, pictures by id, a file whole or not there."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from delf_engine.errors import ConfigError, ImageError
from delf_engine.images import ImageSource, load_reduced
from delf_engine.plotting.canvas import Pixels, figure_pixels, shrunk
from delf_engine.support.files import check_target, replacing, system_errors
from delf_engine.verification.result import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Where photographs come from by their id; None: an id is a path.
Images: TypeAlias = Mapping[str, ImageSource] | Callable[[str], ImageSource] | None

_TEMPLATES = Path(__file__).parent.parent / "templates"
_THUMBNAIL = 320  # pixels: twice what a card shows, for fine screens
_THUMBNAIL_QUALITY, _FIGURE_QUALITY = 72, 84

# Not allowed in HTML, and those that turn the direction of writing: a name could pose as another.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Written:
    """What a page holds.

    Attributes
    ----------
    queries : int
        Shown on the page.
    of : int
        Queries there were.
    bytes : int
        Size of the file.
    """

    queries: int
    of: int
    bytes: int


@cache
def page_templates(*folders: Path) -> Environment:
    """Return the templates of pages, and those in further folders, which may extend them.

    Whatever a template writes is only ever text: jinja2 escapes it, and characters that HTML forbids, surrogates
    of file names that are not UTF-8 among them, become the replacement character.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(counted=counted, percent=percent, short_name=short_name, sha256=_sha256)
    return environment


def _readable(value: object) -> str:
    return value if isinstance(value, Markup) else _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def _sha256(text: str) -> str:
    """Return a hash as a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def counted(number: int, what: str) -> str:
    """Return a number of things, in the plural where there is not just one."""
    if number == 1:
        return f"{number:,} {what}"
    return f"{number:,} {what[:-1]}ies" if what.endswith("y") else f"{number:,} {what}s"


def short_name(image_id: str) -> str:
    """Return the last part of an id that is a path, or the id."""
    return os.path.basename(image_id.rstrip("/")) or image_id


def fitting(sections: Iterable[str], max_bytes: int) -> tuple[list[Markup], bool]:
    """Return the first of some rendered sections that together stay within a size, and whether one did not."""
    kept: list[Markup] = []
    size = 0
    for section in sections:
        size += len(section.encode("utf-8"))
        if size > max_bytes:
            return kept, True
        kept.append(Markup(section))
    return kept, False


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page, before any work is done for it.

    A `ConfigError` if its name does not end in .html or .htm, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: the name of a report must end in .html")
    check_target(path, ConfigError)
    return path


def write_page(path: Path, page: str) -> int:
    """Write a page whole or not at all, and return its size in bytes; a `ConfigError` if it cannot be written."""
    content = page.encode("utf-8")
    with system_errors(f"{path}: cannot be written", ConfigError), replacing(path) as partial:
        partial.write_bytes(content)
    return len(content)


@dataclass(frozen=True)
class Picture:
    """What stands in the place of a picture."""

    name: str  # what it shows, for those who cannot see it
    source: str = ""  # a data URI; empty if there is no picture
    width: int = 0
    height: int = 0
    reason: str | None = None  # why there is no picture


class Photographs:
    """Photographs by id, and their thumbnails, each made once; `images` None: ids are paths."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._thumbnails: dict[str, Picture] = {}

    def source(self, image_id: str) -> ImageSource:
        """Return what a photograph can be read from; an `ImageError` if it is not known."""
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

    An `ImageError` if it cannot be read.
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
