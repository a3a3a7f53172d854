"""Crops of labelled photographs, drawn class by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from delf_engine.config import Count
from delf_engine.errors import DataError
from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.datasets.crops import CropConfig, CropReader

__all__ = ["ClassesOptions", "ClassesSource"]


class ClassesOptions(SourceOptions):
    """Options of the source of labelled crops.

    Attributes
    ----------
    crop : CropConfig
    min_images : int
        Classes with fewer photographs are left out.
    max_images : int or None
        Photographs taken of a class at most, drawn by the seed of the run.
    missing : "error" or "drop"
        What to do with ids of a Google Landmarks list that have no photograph.
    measure_images : int
        Held-out photographs to measure on at most, spread evenly over the classes.
    """

    crop: CropConfig
    min_images: Count = 1
    max_images: Count | None = None
    missing: Literal["error", "drop"] = "error"
    measure_images: Count = 2000


class ClassesSource:
    """Crops of a folder of class folders or of the Google Landmarks v2 layout, with labels.

    Raises
    ------
    DataError, FormatError
        If the data set cannot be used.
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

    def describe(self) -> str:
        """Say in a few words what it draws from."""
        data, crop = self._held_in.data, self._options.crop
        sizes = f"{data.sizes.min()} to {data.sizes.max()}" if np.ptp(data.sizes) else f"{data.sizes[0]}"
        side = f"{crop.window}" if crop.smallest == 1 else f"{round(crop.window * crop.smallest)} to {crop.window}"
        return (
            f"{len(data)} photographs of {self.n_classes} classes, {sizes} each, "
            f"{len(self._held_out.data)} held out; crops of {side} px"
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
