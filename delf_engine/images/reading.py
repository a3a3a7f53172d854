"""Reading photographs: anything a user has becomes an upright RGB array, or an `ImageError` that names it."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.images.files import HEIF_ADVICE, is_heif, no_path, shortened, with_heif

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image.Image", npt.NDArray[np.uint8]]
Box: TypeAlias = Sequence[float]

#: No more pixels are decoded unless this limit is raised; Pillow's own warning level.
MAX_PIXELS = 89_478_485

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
_MAX_SAMPLE_VALUE = 281  # TIFF's tag for the largest value that a grey may have
_GREY_BITS = (8, 10, 12, 14, 16)

# Pillow's limit of pixels is one of the whole process; it is set aside under this lock, which a fork waits for.
_limit_lock = threading.Lock()
os.register_at_fork(
    before=_limit_lock.acquire, after_in_parent=_limit_lock.release, after_in_child=_limit_lock.release
)


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Read an image as upright 8-bit RGB.

    EXIF orientation is applied; greyscale, palette, CMYK and 16-bit images are converted; transparent
    pixels are shown on white; of an animation the first frame is taken. Greys of more than 8 bits are scaled by
    the largest value that the file states, else by the fewest of 8, 10, 12, 14, 16 bits that hold them.

    Parameters
    ----------
    source : path, bytes, PIL image, or (H, W, 3) or (H, W) uint8 array
        Arrays are taken as RGB or grey as they are.
    max_pixels : int
        Images with more pixels are refused before decoding, as a guard against decompression bombs, in place of
        Pillow's own limit. Of arrays, which nobody decodes, any number is taken.

    Returns
    -------
    (H, W, 3) uint8
        Possibly `source` itself, possibly read-only.

    Raises
    ------
    ImageError
        If the image is missing, damaged, not an image, or larger than `max_pixels`. It names the file.

    Warns
    -----
    DelfEngineWarning
        Once for each number of bits below 16 that greys are taken to have, and for values above 16 bits.
    """
    return load_reduced(source, None, max_pixels=max_pixels)[0]


def load_reduced(
    source: ImageSource,
    needed: Callable[[tuple[int, int]], int] | None,
    *,
    always: bool = True,
    max_pixels: int = MAX_PIXELS,
    in_threads: bool = False,
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Read an image as `load_image` does; a JPEG at 1/2, 1/4 or 1/8 of its size where that is enough.

    The decoder then leaves out the finer coefficients of each block, which saves most of the time and memory; the
    pixels are close to those of the whole image shrunk, not the same.

    Parameters
    ----------
    source
        See `load_image`.
    needed : callable or None
        Of the original (width, height), upright: the longer side that is needed, in pixels. None: all of it.
    always : bool
        False: only a JPEG of more than `max_pixels` is shrunk.
    max_pixels : int
        Holds for what is decoded.
    in_threads : bool
        Many threads read at once: OpenCV decodes what JPEGs it can, since Pillow holds Python's lock while it
        copies pixels. Both decode by libjpeg-turbo; builds of different versions may differ in single pixels.

    Returns
    -------
    image : (H, W, 3) uint8
        Its longer side has at least as many pixels as needed, or is the original.
    size : (width, height)
        Size of the original image, upright.

    Raises
    ------
    ImageError
        See `load_image`.
    """
    name = source_name(source)
    if isinstance(source, np.ndarray):
        array = _from_array(source, name)
        return array, (array.shape[1], array.shape[0])

    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Image.Image):
            return _from_pil(source, name, max_pixels, None, always)  # an open image is the caller's
        file = _file(source, name)
        with _opened(file) as image:
            if in_threads and (needed is None or not always or 2 * needed(image.size) > max(image.size)):
                found = _by_opencv(image, file, max_pixels)
                if found is not None:
                    return found, image.size
            return _from_pil(image, name, max_pixels, needed, always)
    except UnidentifiedImageError:
        unread = f"cannot be read: {HEIF_ADVICE}" if is_heif(name) and not with_heif() else None
        raise ImageError(name, unread or "not an image of a known format, or damaged in its first bytes") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # of a part of the image
        raise ImageError(name, f"refused as a possible decompression bomb: {error}") from None
    except _DECODER_ERRORS as error:
        raise ImageError(name, f"cannot be decoded: {str(error) or type(error).__name__}") from error


def turn(
    image: npt.NDArray[np.uint8], rotation: int, box: Box | None = None
) -> tuple[npt.NDArray[np.uint8], Box | None]:
    """Turn an image, (H, W, 3) uint8, by `rotation` degrees counterclockwise, a multiple of 90, and a box of it.

    A `ConfigError` if it is no such multiple.
    """
    if rotation % 90:
        raise ConfigError(f"images are turned by multiples of 90 degrees, got {rotation}")
    for _ in range(rotation // 90 % 4):
        width = image.shape[1]
        image = np.rot90(image)
        if box is not None:
            x0, y0, x1, y1 = box
            box = (y0, width - x1, y1, width - x0)
    return np.ascontiguousarray(image), box


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
        Name of the image, for error messages.

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
        return shortened(os.fspath(source))
    return str(getattr(source, "filename", "") or f"<{type(source).__name__}>")


def _file(source: ImageSource, name: str) -> Path | io.BytesIO:
    """Return what Pillow can open without waiting for anybody: a regular file, or bytes that hold something."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if os.path.isdir(path):
            raise ImageError(name, "is a directory, an image file was expected")
        if not os.path.exists(path):  # unlike Path.exists, False for a name too long to exist
            raise ImageError(name, no_path(os.fspath(source)) or "no such file")
        if not path.is_file():
            raise ImageError(name, "is a pipe, a device or a socket; save its bytes as a file, or give them")
        if path.stat().st_size:
            return path
        source = b""
    if not isinstance(source, bytes):
        raise ImageError(name, "is no image: a path, bytes, a PIL image or a uint8 array was expected")
    if not source:
        raise ImageError(name, "zero bytes, no image in it")
    return io.BytesIO(source)


@contextlib.contextmanager
def _opened(file: Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open an image of any size: Pillow's own limit is set aside meanwhile, since ours is checked instead."""
    from PIL import Image

    with_heif()
    with _limit_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with opened as image:
        yield image


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(name, f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(
            name,
            f"{width} x {height} is more than the limit of {max_pixels} pixels; to raise it, if there is memory: "
            "max_pixels in [extraction] of a profile, of Extractor or Engine.add, or --max-pixels of the command",
        )


def _from_array(array: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(name, f"must be (H, W, 3) or (H, W) uint8, got {array.shape} {array.dtype}")
    if not array.size:
        raise ImageError(name, f"has no pixels ({array.shape[1]} x {array.shape[0]})")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return np.ascontiguousarray(array)


def _from_pil(
    image: Image.Image,
    name: str,
    max_pixels: int,
    needed: Callable[[tuple[int, int]], int] | None,
    always: bool,
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    from PIL import ImageOps

    width, height = image.size
    upright_size = None
    if needed and image.format in ("JPEG", "MPO") and (always or width * height > max_pixels):
        sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
        upright_size = (height, width) if sideways else (width, height)
        ratio = needed(upright_size) / max(width, height)
        if ratio <= 0.5:  # the first size below the whole
            image.draft(None, (math.ceil(width * ratio), math.ceil(height * ratio)))
    _check_pixels(*image.size, name, max_pixels)
    image.load()
    # Not before: a TIFF is turned, and has no orientation any more, once it is loaded.
    orientation = image.getexif().get(_ORIENTATION)
    # Each of Pillow's operations copies the image, also where it changes nothing.
    upright = image if orientation in (None, 1) else ImageOps.exif_transpose(image)
    pixels = np.ascontiguousarray(_to_rgb(upright, name, _stated_maximum(image)), dtype=np.uint8)
    return pixels, upright_size or upright.size


def _by_opencv(image: Image.Image, file: Path | io.BytesIO, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """Decode an upright JPEG that Pillow has opened; None: it is something else, or damaged as Pillow will say."""
    import cv2

    plain = image.format == "JPEG" and image.mode == "RGB" and image.getexif().get(_ORIENTATION) in (None, 1)
    if not plain or math.prod(image.size) > min(max_pixels, MAX_PIXELS):
        return None
    data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None or found.shape[1::-1] != image.size:
        return None
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB, dst=found), np.uint8)


def _stated_maximum(image: Image.Image) -> int | None:
    """Return the largest grey that a TIFF says it may have."""
    stated = getattr(image, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
    stated = stated[0] if isinstance(stated, tuple) else stated
    return stated if isinstance(stated, int) and stated > 0 else None


def _eight_bits(values: npt.NDArray[np.integer], stated: int | None) -> npt.NDArray[np.uint8]:
    """Scale greys to 8 bits: by the largest value that is stated, else by the fewest bits that hold them."""
    largest = stated
    if largest is None:
        top = int(values.max())
        bits = next((bits for bits in _GREY_BITS if top < 1 << bits), 16)
        if top >= 1 << 16 or (top > 0 and bits < 16):
            _say_bits(bits)
        largest = (1 << bits) - 1
    return np.clip(values.astype(np.int64) * 255 // largest, 0, 255).astype(np.uint8)


@functools.cache
def _say_bits(bits: int) -> None:
    warnings.warn(
        f"a grey image of more than 8 bits whose values are taken as {bits} bits: the fewest that hold them, 16 "
        "at most. If that is wrong, convert such images to 8 bits first (said once)",
        DelfEngineWarning,
        stacklevel=2,
    )


def _to_rgb(image: Image.Image, name: str, largest: int | None) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I"):  # grey: I;16, I;16B, or 32-bit integers that hold 16-bit values
        grey = _eight_bits(np.asarray(image), largest)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(name, "has floating-point pixels of unknown range; convert it to 8 or 16 bits first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
