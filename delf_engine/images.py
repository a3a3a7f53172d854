"""Reading photographs: anything a user has becomes an upright RGB array, or an `ImageError` that names it."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, DelfEngineWarning, ImageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Box",
    "ImageSource",
    "crop",
    "find_images",
    "load_image",
    "load_reduced",
    "source_name",
]

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image.Image", npt.NDArray[np.uint8]]
Box: TypeAlias = Sequence[float]

#: Images with more pixels are refused before they are decoded; Pillow's own warning level.
MAX_PIXELS = 89_478_485

#: Files with these endings are taken from a folder.
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})

# What Pillow's decoders raise on damaged files, one format or another.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read an image as upright 8-bit RGB.

    EXIF orientation is applied; greyscale, palette, CMYK and 16-bit images are converted; transparent
    pixels are shown on white; of an animation the first frame is taken.

    Parameters
    ----------
    source : path, bytes, PIL image, or (H, W, 3) or (H, W) uint8 array
        Arrays are taken as RGB or grey as they are.
    max_pixels : int
        Images with more pixels are refused before decoding, as a guard against decompression bombs.
        Pillow has a limit of its own above it, twice ``PIL.Image.MAX_IMAGE_PIXELS``.

    Returns
    -------
    (H, W, 3) uint8
        Possibly `source` itself, possibly read-only.

    Raises
    ------
    ImageError
        If the image is missing, damaged, not an image, or larger than `max_pixels`. It names the file.
    """
    return load_reduced(source, None, max_pixels=max_pixels)[0]


def load_reduced(
    source: ImageSource, needed: Callable[[tuple[int, int]], int] | None, *, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Read an image as `load_image` does; a JPEG at 1/2, 1/4 or 1/8 of its size where that is enough.

    The decoder then leaves out the finer coefficients of each block, which saves most of the time; the pixels are
    close to those of the whole image shrunk, not the same.

    Parameters
    ----------
    source
        See `load_image`.
    needed : callable or None
        Of the original (width, height), upright: the longer side that is needed, in pixels. None: all of it.
    max_pixels : int
        Holds for the original size.

    Returns
    -------
    image : (H, W, 3) uint8
        Its longer side has at least as many pixels as needed, or is the original.
    size : (width, height)
        Of the original image, upright.

    Raises
    ------
    ImageError
        See `load_image`.
    """
    name = source_name(source)
    if isinstance(source, np.ndarray):
        array = _from_array(source, name, max_pixels)
        return array, (array.shape[1], array.shape[0])

    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Image.Image):
            return _from_pil(source, name, max_pixels, None)  # an open image is the caller's
        if isinstance(source, bytes):
            if not source:
                raise ImageError(name, "zero bytes, no image in it")
            with Image.open(io.BytesIO(source)) as image:
                return _from_pil(image, name, max_pixels, needed)
        if not isinstance(source, (str, os.PathLike)):
            raise ImageError(name, "is no image: a path, bytes, a PIL image or a uint8 array was expected")
        path = _checked_path(source, name)
        with Image.open(path) as image:
            return _from_pil(image, name, max_pixels, needed)
    except UnidentifiedImageError:
        raise ImageError(name, "not an image of a known format, or damaged in its first bytes") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            name,
            f"refused as a possible decompression bomb: {error} If you trust it, raise max_pixels and "
            "PIL.Image.MAX_IMAGE_PIXELS",
        ) from None
    except _DECODER_ERRORS as error:
        raise ImageError(name, f"cannot be decoded: {str(error) or type(error).__name__}") from error


def crop(
    image: npt.NDArray[np.uint8], box: Box, *, name: str = "<array>"
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Cut a box out of an image.

    Parameters
    ----------
    image : (H, W, 3) uint8
    box : x0, y0, x1, y1
        In pixels, rounded to whole ones and clipped to the image; x1, y1 are exclusive.
    name : str
        Of the image, for error messages.

    Returns
    -------
    cropped : (h, w, 3) uint8
        A view of `image`.
    offset : (x0, y0)
        The box's corner after rounding and clipping.

    Raises
    ------
    ImageError
        If the box is not four finite numbers, or nothing of the image lies inside.
    """
    try:
        x0, y0, x1, y1 = (round(float(v)) for v in box)
    except (TypeError, ValueError, OverflowError):
        raise ImageError(name, f"box must be four numbers x0, y0, x1, y1, got {box!r}") from None
    height, width = image.shape[:2]
    x0, x1 = (min(max(v, 0), width) for v in (x0, x1))
    y0, y1 = (min(max(v, 0), height) for v in (y0, y1))
    if x1 <= x0 or y1 <= y0:
        raise ImageError(name, f"box {tuple(box)} holds no pixel of the {width} x {height} image")
    return image[y0:y1, x0:x1], (x0, y0)


def source_name(source: ImageSource) -> str:
    """Return the name under which errors and results speak of an image."""
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "filename", "") or f"<{type(source).__name__}>")


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the image files that the given files and folders name.

    Folders are searched recursively for files with a known ending, in sorted order; hidden files and folders
    are passed over. A file named outright is taken whatever its ending. Each file is listed once, under the
    first of its paths; links are not resolved.

    Raises
    ------
    DataError
        If a path does not exist, or a folder holds no image.

    Warns
    -----
    DelfEngineWarning
        For each folder inside that cannot be read; the search goes on without it.
    """
    found: dict[str, str] = {}
    for given in paths:
        path = Path(given)
        if os.path.isdir(path):  # unlike Path.is_dir, False for a name too long to exist
            inside = list(_walk(path))
            if not inside:
                raise DataError(
                    f"{path}: no image in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
                )
            for file in inside:
                found.setdefault(os.path.abspath(file), file)
        elif os.path.exists(path):
            found.setdefault(os.path.abspath(path), os.fspath(path))
        else:
            raise DataError(f"{path}: no such file or folder")
    return list(found.values())


def _walk(folder: Path) -> Iterator[str]:
    def left_out(error: OSError) -> None:
        warnings.warn(f"{error.filename}: folder left out: {error.strerror}", DelfEngineWarning, stacklevel=2)

    # Symbolic links to folders are not followed: no loops.
    for root, folders, files in os.walk(folder, onerror=left_out):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                path = Path(root, file)
                if path.is_file() or path.is_symlink():  # a broken link is reported later, a pipe would block
                    yield os.fspath(path)


def _checked_path(source: str | os.PathLike[str], name: str) -> Path:
    path = Path(source)
    if path.is_dir():
        raise ImageError(name, "is a directory, an image file was expected")
    if not path.exists():
        raise ImageError(name, "no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise ImageError(name, "zero bytes, no image in it")
    return path


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(name, f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(
            name,
            f"{width} x {height} is more than the limit of {max_pixels} pixels; raise max_pixels if you trust it",
        )


def _from_array(array: npt.NDArray[np.uint8], name: str, max_pixels: int) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(name, f"must be (H, W, 3) or (H, W) uint8, got {array.shape} {array.dtype}")
    _check_pixels(array.shape[1], array.shape[0], name, max_pixels)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array)


def _from_pil(
    image: Image.Image, name: str, max_pixels: int, needed: Callable[[tuple[int, int]], int] | None
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    from PIL import ImageOps

    size = image.size
    _check_pixels(*size, name, max_pixels)
    orientation = image.getexif().get(_ORIENTATION)
    upright_size = (size[1], size[0]) if orientation in _SIDEWAYS else size
    if needed is not None and image.format in ("JPEG", "MPO"):
        ratio = needed(upright_size) / max(size)
        if ratio <= 0.5:  # the first size below the whole
            image.draft(None, (math.ceil(size[0] * ratio), math.ceil(size[1] * ratio)))
    image.load()
    # Each of Pillow's operations copies the image, also where it changes nothing.
    upright = image if orientation in (None, 1) else ImageOps.exif_transpose(image)
    return np.ascontiguousarray(_to_rgb(upright, name), dtype=np.uint8), upright_size


def _to_rgb(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey: I;16, I;16B, or 32-bit integers that hold 16-bit values
        grey = np.clip(np.asarray(image, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(name, "has floating-point pixels of unknown range; convert it to 8 or 16 bits first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
