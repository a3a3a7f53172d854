"""The photographs of a run, listed once: those to train on, those to measure on, and their classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delf_engine.errors import DataError
from delf_engine.images import find_images
from delf_engine.training.config import TrainingConfig
from delf_engine.training.labelled import LabelledImages, hold_out, select_classes
from delf_engine.training.layouts import open_labelled
from delf_engine.training.sources.classes import ClassesOptions

Paths = Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Photographs:
    """What a recipe is run on."""

    files: list[str]  # all of them
    # To train on, and to measure on.
    held_in: list[str]
    held_out: list[str]
    labelled: LabelledImages | None = None  # all of them with their classes, where the recipe has labels

    @classmethod
    def find(
        cls, paths: Paths, config: TrainingConfig, *, seed: int = 0, at_most: int | None = None
    ) -> Photographs:
        """List the photographs of files and folders, of labelled ones where the recipe has labels, and split them.

        For a recipe with labels `paths` is one folder of class folders, or one folder or list of the Google
        Landmarks v2 layout; the seed draws photographs of large classes, and those that are held out of each
        class. The first `at_most` are taken. A `DataError` or `FormatError` if there are too few, or the labels
        cannot be used.
        """
        options = [s.source for s in config.gradient_stages if isinstance(s.source, ClassesOptions)]
        if not options:
            return cls.split(find_images(paths)[:at_most], config.held_out_every)
        labelled = labelled_photographs(options[0], paths, seed)
        data = labelled if at_most is None else labelled.among(labelled.paths()[:at_most])
        held_in, held_out = hold_out(data, every=config.held_out_every, seed=seed)
        return cls(data.paths(), held_in.paths(), held_out.paths(), labelled)

    @classmethod
    def split(cls, files: Sequence[str], every: int) -> Photographs:
        """Hold out one photograph in `every`; a `DataError` if there are too few."""
        held_out = list(files[every - 1 :: every])
        if len(held_out) < 2:
            raise DataError(
                f"{len(files)} photographs are too few: one in {every} is held out to measure on, and that needs "
                f"{2 * every} at least (held_out_every in the recipe)"
            )
        held_in = [file for i, file in enumerate(files) if i % every != every - 1]
        return cls(list(files), held_in, held_out)


def labelled_photographs(options: ClassesOptions, paths: Paths, seed: int) -> LabelledImages:
    """List the photographs that the options of a source of classes choose; see `Photographs.find`."""
    if len(paths) != 1:
        raise DataError(
            "labelled photographs come from one folder of class folders or one list; "
            f"{len(paths)} paths were given"
        )
    data = open_labelled(Path(paths[0]), missing=options.missing)
    return select_classes(data, min_images=options.min_images, max_images=options.max_images, seed=seed)
