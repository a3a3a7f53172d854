"""The training recipe as one validated file, ``configs/train_*.toml``.

A recipe is a list of stages. A *gradient* stage draws batches from a source and lowers the weighted sum of some
losses; a *pca* stage fits the projection. ``extends = "train_other.toml"`` takes everything from another recipe
beside it and overrides the tables and values that the file names (the list of stages as a whole).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from delf_engine.config import Config, Count, Positive, config_directory, parse_config, read_extended
from delf_engine.errors import ConfigError
from delf_engine.training.batches import START, Level
from delf_engine.training.contract import LossOptions, SourceOptions
from delf_engine.training.global_head import GlobalHeadConfig
from delf_engine.training.losses.distillation import DistillationOptions
from delf_engine.training.options import Arithmetic
from delf_engine.training.projection import PcaStage, StageName
from delf_engine.training.registry import LOSSES, SOURCES, find
from delf_engine.training.views import ViewsConfig

NotNegative = Annotated[float, Field(ge=0)]
NotNegativeInt = Annotated[int, Field(ge=0)]

#: What a gradient stage can train of the network.
Part = Literal["trunk", "layer3", "attention", "projection", "global"]


class AttentionConfig(Config):
    """The attention head."""

    hidden: Count  # channels between its two convolutions
    norm_weighted: bool  # its score is multiplied by the L2 norm of the feature vector


class GradientStage(Config):
    """A stage that lowers the weighted sum of its losses."""

    kind: Literal["gradient"]
    name: StageName  # as progress, logs and errors call it; unique in the recipe
    # Where batches come from; in TOML its name (``"views"``), or a table with ``kind`` and its options.
    source: SerializeAsAny[SourceOptions]
    # Parts of the network that are trained, with the parameters of the losses. What lies below them is computed
    # once and cached. "global" is exponent and whitening of the global descriptor, which begin as fitted.
    train: tuple[Part, ...]
    losses: tuple[SerializeAsAny[LossOptions], ...] = Field(min_length=1)
    steps: NotNegativeInt  # optimiser steps; 0 leaves the stage out
    # Pairs, or images, of a micro-batch; micro-batches an optimiser step.
    batch: Annotated[int, Field(ge=2)]
    accumulate: Count = 1
    learning_rate: Positive
    weight_decay: NotNegative = 0.0
    # Learning rate of the losses' own parameters, relative to that of the network: a new layer on a trunk that is
    # tuned with care has to learn much faster.
    loss_rate: Positive = 1.0
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of SGD
    warmup: NotNegativeInt = 0  # steps of linear warm-up
    schedule: Literal["cosine", "constant"] = "cosine"  # of the learning rate behind the warm-up; cosine ends at 0
    clip: Positive | None = None  # largest L2 norm of the gradient
    # Of the network's arithmetic; weights, losses and optimiser stay float32. auto: bf16 where the hardware has
    # it, else fp32.
    precision: Arithmetic = "auto"
    # Share of the weights of before the stage in those behind it. The mean of a tuned network and its start is as
    # good as the tuned one on what it has seen and better elsewhere (WiSE-FT; Wortsman et al., CVPR 2022).
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # Steps between measurements on the held-out photographs; 0: at the end only.
    evaluate_every: NotNegativeInt = 0

    @model_validator(mode="after")
    def _losses_fit(self) -> GradientStage:
        gives = SOURCES[self.source.kind].kind
        for loss in self.losses:
            needs = LOSSES[loss.kind].needs
            if needs not in (None, gives):
                raise ValueError(
                    f"loss {loss.kind} needs {needs}, source {self.source.kind} gives {gives}; choose a source "
                    f"that gives {needs}"
                )
        return self

    @property
    def level(self) -> Level:
        """The deepest map that this stage leaves as it is."""
        if "trunk" in self.train:
            return "images"
        return "conv3" if "layer3" in self.train else "conv4"


Stage = GradientStage | PcaStage


class CodebookConfig(Config):
    """The codebook that travels with the checkpoint."""

    features: Count  # features taken of each photograph, the best by attention
    photographs: Count | None = None  # use at most this many, evenly spread; None: all
    # Of k-means.
    words: Count
    iterations: Count


class TrainingConfig(Config):
    """One recipe: name and architecture of the checkpoint, and its stages in order.

    Attributes
    ----------
    name, architecture, profile : str
        Name of the checkpoint, its trunk, and the profile that it is meant for.
    dim : int
        Descriptor dimension.
    held_out_every : int
        Of this many photographs one is kept out of all gradient stages, to measure on.
    trunk : str or None
        Checkpoint that the trunk starts from where none is given; None: torchvision's weights.
    views, attention, codebook : Config
        How views are distorted, the attention head, the visual words.
    stages : tuple of Config
        What is done, in order.
    global_head : GlobalHeadConfig or None
        The global descriptor that goes with the checkpoint: as a stage has trained it, else fitted at the end.
        None: there is none.
    """

    name: str
    architecture: str
    profile: str
    dim: Count
    held_out_every: Annotated[int, Field(ge=2)]
    trunk: str | None = None
    views: ViewsConfig
    attention: AttentionConfig
    stages: tuple[Stage, ...] = Field(min_length=1)
    codebook: CodebookConfig
    global_head: GlobalHeadConfig | None = None

    @model_validator(mode="after")
    def _global_head_is_told(self) -> TrainingConfig:
        if "global" in self.trained and (self.global_head is None or self.global_head.pooling != "gem"):
            raise ValueError("a stage trains 'global', which needs the table [global_head] with pooling = 'gem'")
        begun = False
        for stage in self.gradient_stages:
            begun |= "global" in stage.train
            if begun and "global" not in stage.train and {"trunk", "layer3"} & {*stage.train}:
                raise ValueError(
                    f"stage {stage.name!r} changes the maps behind a stage that trains 'global' on them"
                )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> TrainingConfig:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are called {name!r}; names must differ")
        return self

    @property
    def gradient_stages(self) -> tuple[GradientStage, ...]:
        """The stages that have anything to train."""
        return tuple(s for s in self.stages if isinstance(s, GradientStage) and s.steps)

    @property
    def trained(self) -> set[Part]:
        """What the stages train."""
        return {part for stage in self.gradient_stages for part in stage.train}

    def with_stage(self, name: str, **changes: Any) -> TrainingConfig:
        """Return a copy in which the stage called `name` has other values.

        Raises
        ------
        ConfigError
            If there is no such stage.
        """
        if name not in [s.name for s in self.stages]:
            raise ConfigError(
                f"recipe {self.name} has no stage {name!r}: {', '.join(s.name for s in self.stages)}"
            )
        stages = tuple(s.model_copy(update=changes) if s.name == name else s for s in self.stages)
        return self.model_copy(update={"stages": stages})


def load_training_config(name: str | os.PathLike[str] = "delf_views") -> TrainingConfig:
    """Read a recipe by name (``delf_self`` for ``configs/train_delf_self.toml``) or by path.

    Raises
    ------
    ConfigError
        If it is missing, or has unknown keys or bad values.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = config_directory() / f"train_{name}.toml"
        if not path.is_file():
            known = ", ".join(sorted(each.stem[6:] for each in config_directory().glob("train_*.toml")))
            raise ConfigError(f"there is no recipe {str(name)!r}: {known}; or give the path of a .toml file")
    return parse_training_config(read_extended(path), where=str(path))


def parse_training_config(values: Mapping[str, Any], *, where: str) -> TrainingConfig:
    """Validate a recipe; a `ConfigError` has a line for each problem and names the stage, the loss and the key."""
    stages = [
        _parse_stage(stage, f"{where}: stage {n}") for n, stage in enumerate(_tables(values, "stages", where), 1)
    ]
    return parse_config(TrainingConfig, {**values, "stages": stages}, where=where)


def _parse_stage(values: Mapping[str, Any], where: str) -> Stage:
    where = f"{where} ({values['name']})" if "name" in values else where
    if values.get("kind") == "pca":
        return parse_config(PcaStage, values, where=where)
    if values.get("kind") != "gradient":
        raise ConfigError(f"{where}: kind must be 'gradient' or 'pca', got {values.get('kind')!r}")
    given = dict(values)
    if "source" in given:
        source = {"kind": given["source"]} if isinstance(given["source"], str) else given["source"]
        given["source"] = _parse_named(SOURCES, "source", source, where)
    if isinstance(given.get("train"), str):
        given["train"] = (given["train"],)
    given["losses"] = [_parse_named(LOSSES, "loss", loss, where) for loss in _tables(given, "losses", where)]
    return parse_config(GradientStage, given, where=where)


def _tables(values: Mapping[str, Any], key: str, where: str) -> Sequence[Mapping[str, Any]]:
    tables = values.get(key, ())
    if not isinstance(tables, (list, tuple)) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{where}: {key} must be tables, [[{key}]]")
    return tables


def _parse_named(known: Mapping[str, Any], what: str, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise ConfigError(f'{where}: {what} needs a kind, such as kind = "...", got {table!r}')
    kind = table["kind"]
    try:
        options = find(known, what, kind).Options
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return parse_config(options, table, where=f"{where}, {what} {kind}")


def teacher_names(stages: Iterable[Stage]) -> list[str]:
    """Return the teachers that the losses of some stages need, but for `batches.START`."""
    gradient = [stage for stage in stages if isinstance(stage, GradientStage)]
    return sorted({name for stage in gradient for loss in stage.losses for name in loss.teachers} - {START})


def with_teacher(config: TrainingConfig, teacher: str) -> TrainingConfig:
    """Return a recipe whose distillation losses, those from the start apart, learn from another teacher.

    A `ConfigError` if the recipe has no such loss.
    """
    if not teacher_names(config.gradient_stages):
        raise ConfigError(f"recipe {config.name} has no teacher to replace by {teacher}: add a distillation loss")

    def replaced(loss: LossOptions) -> LossOptions:
        other = isinstance(loss, DistillationOptions) and loss.teacher != START
        return loss.model_copy(update={"teacher": teacher}) if other else loss

    for stage in config.stages:
        if isinstance(stage, GradientStage):
            config = config.with_stage(stage.name, losses=tuple(map(replaced, stage.losses)))
    return config
