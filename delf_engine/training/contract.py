"""What sources and losses are to the trainer.

A gradient stage is composed by configuration: one *source* gives batches, some *losses* turn them into one scalar,
the trainer does the rest. Each source, loss and teacher is one class, named in `delf_engine.training.registry`. A
new loss needs no change of the trainer:

>>> class Mine(Loss):
...     class Options(LossOptions):
...         margin: float = 0.1
...     needs = "labels"
...     def forward(self, step: Step) -> Tensor:
...         pooled = step.features.mean((2, 3))
...         ...
>>> registry.LOSSES["mine"] = Mine
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

from pydantic import Field
from torch import Tensor, nn

from delf_engine.config import Config
from delf_engine.errors import ImageError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import Batch, Kind, StageFacts, Step
from delf_engine.training.labelled import LabelledImages
from delf_engine.training.stores import Stores
from delf_engine.training.views import ViewsConfig


class LossOptions(Config):
    """Options every loss has: its registered name, and its weight in the sum."""

    kind: str
    weight: Annotated[float, Field(gt=0)] = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers whose maps the loss needs in each batch; `batches.START` is always to be had."""
        return ()


class Loss(nn.Module, ABC):
    """One term of a stage's objective; its parameters, if any, train with the stage.

    `options` are validated, from the recipe; the constructor raises a `ConfigError` if the loss cannot work in
    this stage. `Options` is a subclass of `LossOptions` with the options of this loss, `needs` the kind of batch
    it can use.
    """

    Options: ClassVar[type[LossOptions]] = LossOptions
    needs: ClassVar[Kind | None] = None

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__()
        self.options = options

    @abstractmethod
    def forward(self, step: Step) -> Tensor:
        """Return the loss of a micro-batch, a scalar. Weights are applied by the trainer."""

    def measure(self, step: Step) -> Mapping[str, float]:
        """Return figures on one held-out batch, such as accuracy; they are averaged by images."""
        return {}


class SourceOptions(Config):
    """Options every source has: its registered name."""

    kind: str


class Source(Protocol):
    """Where batches come from. `batch` is a pure function of the seed and `index`.

    Resuming needs no more than a number because of that, and prefetching threads change nothing. A class of
    `registry.SOURCES` has class attributes ``Options``, a subclass of `SourceOptions`, and ``kind``, and a
    constructor ``(options, context: SourceContext)`` that checks its data and raises `DataError` where it cannot
    work.
    """

    kind: Kind
    n_classes: int | None

    def batch(self, index: int) -> Batch:
        """Return micro-batch number `index`, from 0."""

    def held_out(self) -> Iterator[Batch]:
        """Yield the batches that losses are measured on (`Loss.measure`); none is right, too."""


@dataclass(frozen=True)
class SourceContext:
    """What a source is built from."""

    # The photographs trained on, and those kept apart to measure on.
    photos: Sequence[str]
    held_out: Sequence[str]
    labelled: LabelledImages | None  # all photographs with their classes, where the recipe has labels
    seed: int  # for drawing: of this run and stage
    run_seed: int  # for rendering: of this run, so that stages share what is cached
    views: ViewsConfig  # how views are rendered
    batch: int  # pairs, or images, of a micro-batch
    workers: int  # threads to decode with; results do not depend on it
    stores: Stores  # cached maps of rendered views
    pairs: str | os.PathLike[str] | None  # file of mined pairs
    on_error: Callable[[str, ImageError], None]  # to be called with each photograph that cannot be read
