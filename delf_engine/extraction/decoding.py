"""From a photograph to the pixels of its pyramid, ahead of the network, in worker processes; needs no torch.

Processes, because a decoder that crashes on a damaged file must not take a batch of a million with it, and
because Python's lock is never waited for. For a GPU threads: it takes whole photographs, more than pipes carry.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError, ImageError, ProcessDiedError
from delf_engine.extraction.content import content_box, textured
from delf_engine.images import MAX_PIXELS, Box, ImageSource, crop, load_reduced, source_name, turn
from delf_engine.images.files import no_path
from delf_engine.pyramid import Level, plan_levels, resize
from delf_engine.support.processes import can_start_processes, map_ordered, process_pool
from delf_engine.support.threads import usable_cores

Source = TypeVar("Source", bound=ImageSource)
Item = TypeVar("Item")

_MOST = 16  # a GPU waits for about this many
_CORES_A_WORKER = 8  # on a CPU: decoding takes a few per cent of extraction, and more would be in its way
_FEW = 8  # images that are decoded sooner than a process starts


@dataclass(frozen=True)
class Pyramid:
    """The pyramid of an image, or of a region of it."""

    # (width, height): in pixels of the original image; the region is the whole of it unless a box was given.
    image_size: tuple[int, int]
    region_size: tuple[int, int]
    offset: tuple[int, int]  # (x, y): top left corner of the region
    levels: tuple[Level, ...]
    # tuple of (h, w, 3) uint8: of each level; of one that is read whole, the region as it was decoded.
    pixels: tuple[Any, ...]
    # tuple of (h, w) bool: at which cells of each level's feature map there is something to see; not of one that
    # is read whole.
    textured: tuple[npt.NDArray[np.bool_], ...]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the levels: images that agree in them can share a batch."""
        return tuple((level.width, level.height) for level in self.levels)


def read_pyramid(
    source: ImageSource,
    config: ExtractionConfig,
    *,
    stride: int,
    offset: float = 0,
    box: Box | None = None,
    rotation: int = 0,
    max_pixels: int = MAX_PIXELS,
    whole: bool = False,
) -> Pyramid:
    """Read an image and make its pyramid.

    An `ImageError` if the image cannot be read, or it or the box is smaller than `config.min_side` pixels.

    Parameters
    ----------
    source : path, bytes, PIL image, or (H, W, 3) uint8 RGB array
    stride, offset
        Of the network's feature map, in pixels of a level.
    box : x0, y0, x1, y1 or None
        Region of interest, in pixels: it keeps the scale that the whole image would have had.
    rotation : int
        Degrees, a multiple of 90, by which the image is turned counterclockwise; all else is of the turned one.
    max_pixels : int
        Larger images are refused before decoding; of a JPEG as many pixels are decoded as the pyramid needs, and
        refused only if these are more.
    whole : bool
        Leave the levels to a GPU, for which many threads read at once.
    """
    name = source_name(source)

    def planned(region: tuple[int, int], whole: tuple[int, int]) -> list[Level]:
        return plan_levels(
            region,
            config.scales,
            max_image_size=config.max_image_size,
            min_side=config.min_side,
            min_image_size=config.min_image_size,
            whole_size=whole,
            fill_scales=config.fill_scales,
            fill_to=config.max_features,
            stride=stride,
        )

    def needed(size: tuple[int, int]) -> int:
        return max((max(level.width, level.height) for level in planned(size, size)), default=1)

    image, image_size = load_reduced(
        source,
        needed if box is None else None,
        always=config.reduced_decoding,
        max_pixels=max_pixels,
        in_threads=whole,
    )
    if rotation:
        image, box = turn(image, rotation, box)
        image_size = image_size if rotation % 180 == 0 else image_size[::-1]
    region_size, whole_size, corner = image_size, image_size, (0, 0)
    if box is not None:
        image, corner = crop(image, box, name=name)
        region_size = (image.shape[1], image.shape[0])
    elif config.trim_frames:
        image, corner, region_size = _trimmed(image, image_size, config.min_side)
        whole_size = region_size
    if min(region_size) < config.min_side:
        raise ImageError(
            name,
            f"{region_size[0]} x {region_size[1]} pixels are too few, each side needs at least {config.min_side}",
        )
    levels = planned(region_size, whole_size) if image.size else []
    if whole:
        return Pyramid(image_size, region_size, corner, tuple(levels), (image,), ())
    pixels = tuple(resize(image, level.width, level.height, config.resize) for level in levels)
    masks = tuple(textured(level, stride, 3 * stride, config.min_contrast, offset) for level in pixels)
    return Pyramid(image_size, region_size, corner, tuple(levels), pixels, masks)


def _trimmed(
    image: npt.NDArray[np.uint8], image_size: tuple[int, int], min_side: int
) -> tuple[npt.NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
    """Return an image without its uniform frame, and where that leaves it in the pixels of the original.

    Of an image of one colour no pixel is left; one that keeps less than `min_side` pixels is kept whole.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = content_box(image)
    if x1 <= x0 or y1 <= y0:
        return image[:0], (0, 0), image_size
    if min(x1 - x0, y1 - y0) < min_side:
        return image, (0, 0), image_size
    x, y = image_size[0] / width, image_size[1] / height
    return image[y0:y1, x0:x1], (round(x0 * x), round(y0 * y)), (round((x1 - x0) * x), round((y1 - y0) * y))


def decoded(
    sources: Iterable[Source],
    read: Callable[[ImageSource], Pyramid],
    *,
    workers: int = 0,
    ahead: int = 1,
    threads: bool = False,
) -> Generator[tuple[Source, Pyramid | ImageError], None, None]:
    """Yield each source with what is read of it or what is wrong with it, in order.

    Parameters
    ----------
    sources : iterable of image sources
        Read lazily.
    read : callable
        Such as `read_pyramid` with its options; raises `ImageError`.
    workers : int
        Processes; 0: one thread of this process. Pixels that are in memory already never leave it.
    ahead : int
        Images that whoever takes them holds at once. Twice the workers and this many are in memory at most.
    threads : bool
        The workers are threads of this process.
    """
    with contextlib.ExitStack() as until_closed:
        here: Executor = ThreadPoolExecutor(1, thread_name_prefix="decode")
        until_closed.callback(here.shutdown, cancel_futures=True)
        there = here
        if workers and threads:
            there = ThreadPoolExecutor(workers, thread_name_prefix="decode")
            until_closed.callback(there.shutdown, cancel_futures=True)
        elif workers:
            there = until_closed.enter_context(process_pool(workers, _begin))

        def submit(source: ImageSource) -> Future[Pyramid | str]:
            if isinstance(source, (str, os.PathLike)):
                path = os.fspath(source)
                given = path if no_path(path) and not os.path.exists(path) else os.path.abspath(path)
                return there.submit(_prepared, given, read)
            executor = there if isinstance(source, bytes) else here
            return executor.submit(_prepared, source, read)

        ordered = until_closed.enter_context(closing(map_ordered(submit, sources, 2 * max(1, workers) + ahead)))
        for source, future in ordered:
            found = _result(source, future)
            del future  # or its pixels live until the next image
            yield source, found
            del found


def worker_count(workers: int | None, images: Iterable[object], *, gpu: bool) -> int:
    """Return how many decoding processes to use: `workers`; None: see `Extractor.extract_many`.

    A `ConfigError` if `workers` is negative.
    """
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"workers must be 0 (decode in this process) or more, got {workers}")
        return workers
    if (isinstance(images, Sized) and len(images) <= _FEW) or not can_start_processes():
        return 0
    cores = usable_cores()
    return min(_MOST, cores if gpu else max(1, cores // _CORES_A_WORKER))


def windows(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    while window := list(islice(items, size)):
        yield window


def _result(source: ImageSource, future: Future[Pyramid | str]) -> Pyramid | ImageError:
    try:
        found = future.result()
    except ProcessDiedError as error:
        found = f"cannot be decoded: {error}"
    return ImageError(source_name(source), found) if isinstance(found, str) else found


def _prepared(source: ImageSource, read: Callable[[ImageSource], Pyramid]) -> Pyramid | str:
    """Return what is read of an image, or what is wrong with it."""
    try:
        return read(source)
    except ImageError as error:
        return error.reason


def _begin() -> None:
    """Begin a process that runs when the network leaves a core idle: it waits for its slowest core."""
    import cv2

    cv2.setNumThreads(1)  # there are as many processes as cores to use
    os.setsid()  # Linux shares out cores by session first
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")
