"""The labelled photographs of a recipe, as its source lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from delf_engine.training.config import TrainingConfig
from delf_engine.training.contract import find_source
from delf_engine.training.datasets import LabelledImages

__all__ = ["labelled_photographs"]


def labelled_photographs(
    config: TrainingConfig, roots: Sequence[str | os.PathLike[str]], seed: int
) -> LabelledImages | None:
    """List the photographs of `roots` that a recipe with labels trains on; None for one without.

    The first source with a class method ``labelled`` says which they are.

    Raises
    ------
    DataError, FormatError
        If the data set cannot be used.
    """
    for stage in config.gradient_stages:
        find = getattr(find_source(stage.source.kind), "labelled", None)
        if find is not None:
            return cast(LabelledImages, find(stage.source, [Path(root) for root in roots], seed))
    return None
