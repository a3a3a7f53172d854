"""The training recipe as one validated file, ``configs/train_*.toml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from delf_engine.config import Config, Count, Positive, config_directory, parse_config, read_toml

__all__ = [
    "CodebookConfig",
    "HeadConfig",
    "ProjectionConfig",
    "TrainingConfig",
    "TuningConfig",
    "ViewsConfig",
    "load_training_config",
]

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class ViewsConfig(Config):
    """Augmented views of each photograph.

    Attributes
    ----------
    count : int
        Views of each photograph, at least 2.
    size : int
        Side of a view in pixels.
    crop : (low, high)
        Side of the crop, of the photograph's shorter side.
    rotation_deg : float
        Largest rotation either way.
    corner_jitter : float
        Largest shift of each corner, of the crop's side.
    aspect : float
        Largest stretch of one side against the other.
    grey : float
        Share of views without colour.
    """

    count: Annotated[int, Field(ge=2)]
    size: Annotated[int, Field(ge=64)]
    crop: tuple[Share, Share]
    rotation_deg: NotNegative
    corner_jitter: Annotated[float, Field(ge=0, lt=0.4)]
    aspect: Annotated[float, Field(ge=0, lt=1)]
    grey: Share


class TuningConfig(Config):
    """Tuning of conv4 by dense contrast between views.

    Attributes
    ----------
    steps, pairs, cells : int
        Optimiser steps (0: the trunk stays as it is), pairs of views a step, cells a pair.
    learning_rate, weight_decay : float
        Of AdamW; cosine decay.
    temperature : float
        Of the contrastive softmax.
    distillation : float
        Weight of the relative squared distance of the features to those of the untuned trunk.
    exclusion_px : float
        Cells nearer than this to the true place, in pixels of the view, are not negatives.
    """

    steps: Annotated[int, Field(ge=0)]
    pairs: Count
    cells: Count
    learning_rate: Positive
    weight_decay: NotNegative
    temperature: Positive
    distillation: NotNegative
    exclusion_px: NotNegative


class HeadConfig(Config):
    """Training of the attention head as a predictor of correct matches.

    Attributes
    ----------
    hidden : int
        Channels between its two convolutions.
    norm_weighted : bool
        Its score is multiplied by the L2 norm of the feature vector.
    steps, pairs, cells : int
        Optimiser steps, pairs of views a step, cells a pair and direction.
    learning_rate, weight_decay : float
        Of AdamW; cosine decay.
    warmup : int
        Steps of linear warm-up.
    correct_px : float
        A nearest neighbour within this distance of the true place, in pixels of the view, is correct.
    """

    hidden: Count
    norm_weighted: bool
    steps: Count
    pairs: Annotated[int, Field(ge=2)]
    cells: Count
    learning_rate: Positive
    weight_decay: NotNegative
    warmup: Annotated[int, Field(ge=0)]
    correct_px: Positive


class ProjectionConfig(Config):
    """PCA on whole photographs: best `cells` of each by attention, over these `scales`."""

    cells: Count
    scales: tuple[Positive, ...] = Field(min_length=1)


class CodebookConfig(Config):
    """The codebook that travels with the checkpoint.

    Attributes
    ----------
    features : int
        Features taken of each photograph, the best by attention.
    words, iterations : int
        Of k-means.
    """

    features: Count
    words: Count
    iterations: Count


class TrainingConfig(Config):
    """One recipe: name and architecture of the checkpoint, and the options of each stage.

    `held_out_every`: of this many photographs one is kept out of tuning and head, to measure on.
    """

    name: str
    architecture: str
    profile: str
    dim: Count
    held_out_every: Annotated[int, Field(ge=2)]
    views: ViewsConfig
    tuning: TuningConfig
    head: HeadConfig
    projection: ProjectionConfig
    codebook: CodebookConfig


def load_training_config(name: str | os.PathLike[str] = "delf_r18") -> TrainingConfig:
    """Read a recipe by name (``delf_r18`` for ``configs/train_delf_r18.toml``) or by path.

    Raises
    ------
    ConfigError
        If it is missing, or has unknown keys or bad values.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = config_directory() / f"train_{name}.toml"
    return parse_config(TrainingConfig, read_toml(path), where=str(path))
