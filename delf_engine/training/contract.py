"""What sources, losses, teachers and the trainer agree on.

A gradient stage is composed by configuration: one *source* gives batches, some *losses* turn them into one scalar,
the trainer does the rest. Each source, loss and teacher is one small file under ``sources/``, ``losses/`` or
``teachers/``; it registers itself under the name that recipes use, and the files are found without being listed
anywhere. A new loss needs no change of the trainer:

>>> @register_loss("mine")
... class Mine(Loss):
...     class Options(LossOptions):
...         margin: float = 0.1
...     needs = "labels"
...     def forward(self, step: Step) -> Tensor:
...         pooled = step.features.mean((2, 3))
...         ...
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.config import Config
from delf_engine.errors import ConfigError, ImageError
from delf_engine.model.network import DelfNetwork

if TYPE_CHECKING:
    from delf_engine.training.config import ViewsConfig
    from delf_engine.training.stores import Stores

__all__ = [
    "START",
    "Batch",
    "Kind",
    "Loss",
    "LossOptions",
    "Source",
    "SourceContext",
    "SourceOptions",
    "StageFacts",
    "Step",
    "Teacher",
    "TeacherContext",
    "find_loss",
    "find_source",
    "find_teacher",
    "register_loss",
    "register_source",
    "register_teacher",
]

#: What a batch relates: pairs of views by homographies, or images by class labels.
Kind = Literal["pairs", "labels"]
#: Name of the conv4 maps of the trunk as it was when the stage began.
START = "start"


@dataclass(frozen=True)
class Batch:
    """What a source gives for one micro-batch of N images.

    Attributes
    ----------
    maps : mapping of str to tensor
        By name, N rows each: ``images``, (N, size, size, 3) uint8 RGB; ``conv3`` and ``conv4`` of the frozen trunk
        and a teacher's maps under its name, (N, C, h, w). A source gives ``images`` or the deepest map it has
        cached; the trainer computes the rest.
    size : int
        Side of an image, pixels.
    labels : (N,) int64 tensor, or None
        Classes, from 0.
    homographies : (N / 2, 3, 3) float64, or None
        Of pairs: pixels of image i to pixels of image N / 2 + i.
    supports : sequence of (M, 2) float64 or None, or None
        For each pair the points x, y of its first image near which the homography is trusted; None: all of it.
    groups : (N / 2,) int64, or None
        The place each pair shows. Pairs of one place are no negatives of each other. None: all differ.
    """

    maps: Mapping[str, Tensor]
    size: int
    labels: Tensor | None = None
    homographies: npt.NDArray[np.float64] | None = None
    supports: Sequence[npt.NDArray[np.float64] | None] | None = None
    groups: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.maps.values())))

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        maps = {name: value.to(device) for name, value in self.maps.items()}
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, maps=maps, labels=labels)


@dataclass(frozen=True)
class Step:
    """What a loss sees of one micro-batch.

    Attributes
    ----------
    batch : Batch
        Its `maps` hold whatever the losses of the stage asked for.
    features : (N, C, h, w) float32 tensor
        conv4, with gradient where the trunk is trained.
    network : DelfNetwork
        With the weights under training.
    fitted : bool
        Whether the network's projection has been fitted by a PCA stage.
    rng : numpy.random.Generator
        Fresh for this micro-batch: a function of seed, stage and step alone.
    """

    batch: Batch
    features: Tensor
    network: DelfNetwork
    fitted: bool
    rng: np.random.Generator

    def describe(self, vectors: Tensor) -> Tensor:
        """Map (N, C) feature vectors to unit descriptors: by the projection, before there is one by L2 alone."""
        return self.network.projection(vectors) if self.fitted else F.normalize(vectors, dim=1)


@dataclass(frozen=True)
class StageFacts:
    """What a loss may know when it is built.

    Attributes
    ----------
    kind : "pairs" or "labels"
        Of the source.
    n_classes : int or None
        Of the source, where it has labels.
    fitted : bool
        Whether a PCA stage came before.
    trains : frozenset of str
        Parts of the network the stage trains.
    channels : mapping of str to int
        Channels of the maps of each teacher, by name.
    """

    kind: Kind
    n_classes: int | None
    fitted: bool
    trains: frozenset[str]
    channels: Mapping[str, int] = field(default_factory=dict)


class LossOptions(Config):
    """Options every loss has: its registered name, and its weight in the sum."""

    kind: str
    weight: Annotated[float, Field(gt=0)] = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers whose maps the loss needs in each batch; `START` is always to be had."""
        return ()


class Loss(nn.Module, ABC):
    """One term of a stage's objective; its parameters, if any, train with the stage.

    Parameters
    ----------
    options : Options
        Validated, from the recipe.
    network : DelfNetwork
    facts : StageFacts

    Attributes
    ----------
    Options : type
        A subclass of `LossOptions` with the options of this loss.
    needs : "pairs", "labels" or None
        The kind of batch it can use.

    Raises
    ------
    ConfigError
        From the constructor, if the loss cannot work in this stage.
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

    Resuming needs no more than a number because of that, and prefetching threads change nothing. A class that is
    registered has a class attribute ``Options``, a subclass of `SourceOptions`, and a constructor
    ``(options, context: SourceContext)`` that checks its data and raises `DataError` where it cannot work.
    """

    kind: Kind
    n_classes: int | None

    def describe(self) -> str:
        """Say in a few words what it draws from."""

    def batch(self, index: int) -> Batch:
        """Return micro-batch number `index`, from 0."""

    def held_out(self) -> Iterator[Batch]:
        """Yield the batches that losses are measured on (`Loss.measure`); none is right, too."""


@dataclass(frozen=True)
class SourceContext:
    """What a source is built from.

    Attributes
    ----------
    photos, held_out : sequence of path
        The photographs trained on, and those kept apart to measure on.
    roots : sequence of path
        The files and folders that were named on the command line, for sources that read labels from them.
    seed : int
        For drawing: of this run and stage.
    run_seed : int
        For rendering: of this run, so that stages share what is cached.
    views : ViewsConfig
        How views are rendered.
    batch : int
        Pairs, or images, of a micro-batch.
    workers : int
        Threads to decode with; results do not depend on it.
    stores : Stores
        Cached maps of rendered views.
    pairs : path or None
        File of mined pairs.
    on_error : callable
        To be called with each photograph that cannot be read.
    """

    photos: Sequence[str]
    held_out: Sequence[str]
    roots: Sequence[Path]
    seed: int
    run_seed: int
    views: ViewsConfig
    batch: int
    workers: int
    stores: Stores
    pairs: Path | None
    on_error: Callable[[str, ImageError], None]


@dataclass(frozen=True)
class TeacherContext:
    """What a teacher may use when it is built: photographs to fit a PCA on, the device, and the autocast type."""

    photos: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    progress: Callable[[int, int], None]


class Teacher(Protocol):
    """A frozen network that describes the cells of an image.

    A class that is registered has a constructor ``(argument: str, context: TeacherContext)``; `argument` is what
    stands behind the colon in a recipe's ``teacher = "kind:argument"``.

    Attributes
    ----------
    channels : int
        Of its maps.
    """

    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, channels, ceil(H / 16), ceil(W / 16)) unit descriptors of cells."""


T = TypeVar("T")


class _Registry(Generic[T]):
    """Classes by the name that recipes use; the files of `package` are imported on the first look-up."""

    def __init__(self, what: str, package: str) -> None:
        self.what, self.package = what, package
        self.known: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        def add(kind: type[T]) -> type[T]:
            earlier = self.known.get(name)
            if earlier is not None and earlier.__qualname__ != kind.__qualname__:
                raise ConfigError(f"two kinds of {self.what} are called {name!r}: {earlier} and {kind}")
            self.known[name] = kind
            return kind

        return add

    def find(self, name: str) -> type[T]:
        importlib.import_module(f"{__package__}.{self.package}")
        if name not in self.known:
            hint = difflib.get_close_matches(name, self.known, n=1, cutoff=0.4)
            raise ConfigError(
                f"there is no {self.what} {name!r}"
                + (f"; did you mean {hint[0]!r}?" if hint else "")
                + f" (known: {', '.join(sorted(self.known))})"
            )
        return self.known[name]


_LOSSES: _Registry[Loss] = _Registry("loss", "losses")
_SOURCES: _Registry[Source] = _Registry("source", "sources")
_TEACHERS: _Registry[Teacher] = _Registry("teacher", "teachers")

register_loss, find_loss = _LOSSES.register, _LOSSES.find
register_source, find_source = _SOURCES.register, _SOURCES.find
register_teacher, find_teacher = _TEACHERS.register, _TEACHERS.find
