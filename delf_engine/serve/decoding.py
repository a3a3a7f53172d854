"""What worker processes do with photographs of strangers: they may run out of memory or time, or die."""

from __future__ import annotations

import io
import resource
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ImageError
from delf_engine.images import load_image, load_reduced
from delf_engine.images.files import with_heif
from delf_engine.pyramid import resize
from delf_engine.support.processes import ProcessPool

Pixels = npt.NDArray[np.uint8]

#: Formats of photographs; others, such as PostScript, which runs a program, are not known to the processes.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
_MEMORY = 4 << 30  # bytes of address space
_SECONDS = 20  # for one photograph
_QUALITY = 88


class Decoders:
    """Reads photographs in processes; those of more than `max_pixels` are refused before they are decoded."""

    def __init__(self, processes: int, max_pixels: int) -> None:
        self._pool = ProcessPool(processes, _begin)
        self._max_pixels = max_pixels

    def pixels(self, source: bytes | str) -> Pixels:
        """Return an upright photograph, (H, W, 3) uint8, of the bytes of a file or its path.

        An `ImageError` if it cannot be read; a `ProcessDiedError` if the decoder died of it.
        """
        found = self._pool.submit(_pixels, source, self._max_pixels).result()
        if isinstance(found, str):
            raise ImageError("photograph", found)
        return found

    def problem(self, path: str) -> str | None:
        """Say what is wrong with a file, by decoding all of it; None if nothing is. Errors as of `pixels`."""
        return self._pool.submit(_problem, path, self._max_pixels).result()

    def jpeg(self, source: bytes | str, side: int) -> bytes:
        """Return a photograph as JPEG with at most `side` pixels a side, without its metadata. Errors as above."""
        found = self._pool.submit(_jpeg, source, side, self._max_pixels).result()
        if isinstance(found, str):
            raise ImageError("photograph", found)
        return found

    def close(self) -> None:
        """End the processes at once."""
        self._pool.shutdown(cancel_futures=True)


def encoded(pixels: Pixels) -> bytes:
    """Return an image, (H, W, 3) uint8, as JPEG without any metadata."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _begin() -> None:
    from PIL import Image

    with_heif()
    Image.init()
    for kind in set(Image.OPEN) - set(FORMATS):
        del Image.OPEN[kind]
    Image.ID[:] = [kind for kind in Image.ID if kind in Image.OPEN]
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, most))


def _pixels(source: bytes | str, max_pixels: int) -> Pixels | str:
    signal.alarm(_SECONDS)  # kills the process: nobody handles it
    try:
        return load_image(source, max_pixels=max_pixels)
    except ImageError as error:
        return error.reason
    finally:
        signal.alarm(0)


def _problem(path: str, max_pixels: int) -> str | None:
    found = _pixels(path, max_pixels)
    return found if isinstance(found, str) else None


def _jpeg(source: bytes | str, side: int, max_pixels: int) -> bytes | str:
    signal.alarm(_SECONDS)
    try:
        if isinstance(source, str) and not Path(source).is_file():
            return "its file is not there"
        pixels, _ = load_reduced(source, lambda size: min(side, max(size)), max_pixels=max_pixels)
        height, width = pixels.shape[:2]
        ratio = min(1.0, side / max(height, width))
        small = resize(pixels, max(1, round(width * ratio)), max(1, round(height * ratio)), "area")
        return encoded(small)
    except ImageError as error:
        return error.reason
    finally:
        signal.alarm(0)
