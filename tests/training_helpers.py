"""Training in one call and sources by themselves, as tests of recipes want them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delf_engine.errors import ImageError
from delf_engine.training import Reports, RunOptions, TrainingConfig, load_training_config
from delf_engine.training.config import GradientStage
from delf_engine.training.contract import SourceContext
from delf_engine.training.finish import Trained, train_network
from delf_engine.training.photographs import Photographs
from delf_engine.training.stores import Stores

__all__ = ["Trained", "fail", "shrunk", "source_context", "train"]


def fail(path: str, error: ImageError) -> None:
    raise AssertionError(f"{path}: {error}")


def shrunk(name: str, *, scales: tuple[float, ...] = (1.0,), **small: Any) -> TrainingConfig:
    """A shipped recipe with little of everything; `small` are options of its gradient stages."""
    full = load_training_config(name)
    update = {
        "dim": 8,
        "held_out_every": 3,
        "views": full.views.model_copy(update={"count": 2, "size": 96}),
        "attention": full.attention.model_copy(update={"hidden": 8}),
    }
    config = full.model_copy(update=update)
    for stage in full.stages:
        changes: dict[str, Any] = {"cells": 20, "scales": scales, "photographs": 8}
        if isinstance(stage, GradientStage):
            few = [x.model_copy(update={"cells": 8} if hasattr(x, "cells") else {}) for x in stage.losses]
            changes = {"evaluate_every": 0, "losses": tuple(few), **small}
        config = config.with_stage(stage.name, **changes)
    return config


def source_context(photos: Sequence[str], **changes: Any) -> SourceContext:
    """What a source is built from, without anything held out, labelled or mined."""
    values: dict[str, Any] = {
        "photos": photos,
        "held_out": [],
        "labelled": None,
        "seed": 0,
        "run_seed": 0,
        "views": shrunk("delf_contrast").views,
        "batch": 3,
        "workers": 2,
        "stores": Stores(limit=0, on_error=fail),
        "pairs": None,
        "on_error": fail,
    }
    return SourceContext(**{**values, **changes})


def train(
    photos: Sequence[str],
    config: TrainingConfig,
    trunk: str | Path | None = None,
    *,
    roots: Sequence[Path] = (),
    work: Path | None = None,
    error: Any = fail,
    progress: Any = lambda *_: None,
    figures: Any = lambda *_: None,
    **options: Any,
) -> Trained:
    """Train on files, or on the classes below a folder of `roots`."""
    photographs = (
        Photographs.find(roots, config, seed=options.get("seed", 0))
        if roots
        else Photographs.split(photos, config.held_out_every)
    )
    reports = Reports(error, progress, figures)
    return train_network(photographs, config, trunk, RunOptions(**options), reports, work=work)
