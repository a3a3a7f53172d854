"""Source ``classes``: square crops of labelled photographs, drawn class by class.

Crops are those of the published recipe (Noh et al., ICCV 2017): stage 1 takes 224 of 250 pixels; stage 2 takes 720
of 900 and shrinks the window by a random factor, so that the attention sees landmarks at many sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from delf_engine.config import Config, Count
from delf_engine.errors import DataError, ImageError
from delf_engine.pyramid import resize
from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.labelled import LabelledImages, draw_balanced
from delf_engine.training.views import read_photograph

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Cut = Callable[[Rgb], Rgb]


class CropConfig(Config):
    """How a training crop is taken."""

    # The largest centred square of the photograph is rescaled to this side, pixels.
    square: Annotated[int, Field(ge=16)]
    window: Annotated[int, Field(ge=16)]  # side of the window taken from it, pixels; at most `square`
    # The window is rescaled by a factor drawn uniformly from `smallest` to 1. The paper says "at most 1" and no
    # lower limit.
    smallest: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _fits(self) -> CropConfig:
        if self.window > self.square:
            raise ValueError(f"window = {self.window} is larger than square = {self.square}")
        if round(self.window * self.smallest) < 16:
            raise ValueError(f"smallest = {self.smallest} leaves windows below 16 pixels, one cell of the trunk")
        return self


def draw_side(config: CropConfig, rng: np.random.Generator) -> int:
    """Draw the side of the crops of one batch, pixels: one tensor holds them all, so they share the factor."""
    return round(config.window * rng.uniform(config.smallest, 1))


def random_crop(photo: Rgb, config: CropConfig, side: int, rng: np.random.Generator) -> Rgb:
    """Take a random window of the photograph's centred square, (side, side, 3) uint8; see `draw_side`."""
    x, y = rng.integers(0, config.square - config.window + 1, 2)
    return _window(photo, config, side, int(x), int(y))


def centre_crop(photo: Rgb, config: CropConfig) -> Rgb:
    """Take the window in the middle at its full size, (window, window, 3) uint8, as for measuring."""
    middle = (config.square - config.window) // 2
    return _window(photo, config, config.window, middle, middle)


def _window(photo: Rgb, config: CropConfig, side: int, x: int, y: int) -> Rgb:
    height, width = photo.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = resize(photo[top : top + edge, left : left + edge], config.square, config.square, "area")
    return np.ascontiguousarray(resize(square[y : y + config.window, x : x + config.window], side, side, "area"))


class CropReader:
    """Reads crops in threads; of a photograph that cannot be read the next of its class takes its place.

    `on_error` is called with each, by the thread that asked for the batch.
    """

    def __init__(
        self,
        data: LabelledImages,
        crops: CropConfig,
        *,
        seed: int,
        workers: int = 1,
        on_error: Callable[[str, ImageError], None],
    ) -> None:
        self.data, self.crops, self.seed = data, crops, seed
        self._workers = workers
        self._on_error = on_error

    def training_batch(self, step: int, count: int) -> tuple[Rgb, Labels]:
        """Draw the crops of one step, classes uniformly and photographs uniformly within.

        A pure function of the seed and `step`: any step can be drawn again, in any order, with any workers.
        Returned are images, (count, side, side, 3) uint8, and labels, (count,) int64. A `DataError` if no
        photograph of a class that was drawn can be read.
        """
        rng = np.random.default_rng((self.seed, step))
        side = draw_side(self.crops, rng)
        drawn = draw_balanced(self.data, count, rng)

        def cut(place: int) -> Cut:
            # From 1: NumPy gives (seed, step, 0) the numbers of (seed, step).
            return lambda photo: random_crop(
                photo, self.crops, side, np.random.default_rng((self.seed, step, place + 1))
            )

        labels = self._labels(drawn)
        crops = self._read(drawn, labels, [cut(place) for place in range(count)])
        for crop, label in zip(crops, labels, strict=True):
            if crop is None:
                raise DataError(
                    f"{self.data.root}: no photograph of the class {self.data.classes[label]!r} can be read; "
                    "take the class out of the data set"
                )
        return np.stack([crop for crop in crops if crop is not None]), labels

    def measuring_batches(self, count: int, *, most: int | None = None) -> Iterator[tuple[Rgb, Labels]]:
        """Yield centre crops and labels of `most` photographs, spread evenly, or of all, `count` at a time.

        A photograph that cannot be read is replaced as in training; a class that cannot be read is passed over.
        """
        total = len(self.data)
        chosen = np.arange(total) if most is None or most >= total else np.arange(most) * total // most
        for start in range(0, len(chosen), count):
            part = chosen[start : start + count]
            labels = self._labels(part)
            crops = self._read(part, labels, [lambda photo: centre_crop(photo, self.crops)] * len(part))
            good = [i for i, crop in enumerate(crops) if crop is not None]
            if good:
                yield np.stack([crop for crop in crops if crop is not None]), labels[good]

    def _labels(self, indices: npt.NDArray[np.int64]) -> Labels:
        return np.asarray(np.searchsorted(self.data.starts, indices, side="right") - 1, dtype=np.int64)

    def _read(self, indices: npt.NDArray[np.int64], labels: Labels, cuts: Sequence[Cut]) -> list[Rgb | None]:
        with ThreadPoolExecutor(min(self._workers, len(indices))) as pool:
            jobs = list(pool.map(self._read_one, indices.tolist(), labels.tolist(), cuts))
        for index, error in (failure for _, failed in jobs for failure in failed):
            self._on_error(self.data.path(index), error)
        return [crop for crop, _ in jobs]

    def _read_one(self, index: int, label: int, cut: Cut) -> tuple[Rgb | None, list[tuple[int, ImageError]]]:
        """Read a photograph or the next readable one of its class; also return those that failed before it."""
        start, size = int(self.data.starts[label]), int(self.data.sizes[label])
        failed: list[tuple[int, ImageError]] = []
        for offset in range(size):
            candidate = start + (index - start + offset) % size
            try:
                return cut(read_photograph(self.data.path(candidate))), failed
            except ImageError as error:
                failed.append((candidate, error))
        return None, failed


class ClassesOptions(SourceOptions):
    """Options of the source of labelled crops."""

    crop: CropConfig
    min_images: Count = 1  # classes with fewer photographs are left out
    max_images: Count | None = None  # photographs taken of a class at most, drawn by the seed of the run
    # What to do with ids of a Google Landmarks list that have no photograph.
    missing: Literal["error", "drop"] = "error"
    measure_images: Count = 2000  # held-out photographs to measure on at most, spread evenly over the classes


class ClassesSource:
    """Crops of a folder of class folders or of the Google Landmarks v2 layout, with labels.

    A `DataError` or `FormatError` if the data set cannot be used.
    """

    Options: ClassVar[type[SourceOptions]] = ClassesOptions
    kind: Kind = "labels"
    n_classes: int | None

    def __init__(self, options: ClassesOptions, context: SourceContext) -> None:
        data = context.labelled
        if data is None:
            raise DataError("the source of classes needs labelled photographs, and none were listed")
        held_in = data.among(context.photos)
        if len(held_in.classes) < 2:
            raise DataError(
                f"{data.root}: {len(context.photos)} photographs to train on, of {len(held_in.classes)} of its "
                f"{len(data.classes)} classes: telling classes apart needs at least 2"
            )
        held_out = data.among(context.held_out).aligned(held_in.classes)
        self.n_classes = len(held_in.classes)
        self._options, self._batch = options, context.batch
        self._held_in, self._held_out = (
            CropReader(part, options.crop, seed=context.seed, workers=context.workers, on_error=context.on_error)
            for part in (held_in, held_out)
        )

    def batch(self, index: int) -> Batch:
        """Return micro-batch number `index`, a function of the seed and `index` alone."""
        return _batch(*self._held_in.training_batch(index, self._batch))

    def held_out(self) -> Iterator[Batch]:
        """Yield centre crops of held-out photographs at the full size of the window."""
        for images, labels in self._held_out.measuring_batches(self._batch, most=self._options.measure_images):
            yield _batch(images, labels)


def _batch(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Batch:
    return Batch({"images": torch.from_numpy(images)}, images.shape[1], torch.from_numpy(labels))
