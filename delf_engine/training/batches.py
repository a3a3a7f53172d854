"""Batches, the steps that losses see of them, what computes these, and the teachers whose maps they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.errors import ConfigError
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import DelfNetwork
from delf_engine.training.options import autocast

#: What a batch relates: pairs of views by homographies, or images by class labels.
Kind = Literal["pairs", "labels"]
#: Maps of the trunk, from the first to the deepest.
Level = Literal["images", "conv3", "conv4"]
#: Name of the conv4 maps of the trunk as it was when the stage began.
START = "start"


@dataclass(frozen=True)
class Batch:
    """What a source gives for one micro-batch of N images."""

    # By name, N rows each: ``images``, (N, size, size, 3) uint8 RGB; ``conv3`` and ``conv4`` of the frozen trunk
    # and a teacher's maps under its name, (N, C, h, w). A source gives ``images`` or the deepest map it has
    # cached; the trainer computes the rest.
    maps: Mapping[str, Tensor]
    size: int  # side of an image, pixels
    labels: Tensor | None = None  # (N,) int64: classes, from 0
    # (N / 2, 3, 3) float64, of pairs: pixels of image i to pixels of image N / 2 + i.
    homographies: npt.NDArray[np.float64] | None = None
    # (M, 2) float64 or None for each pair: the points x, y of its first image near which the
    # homography is trusted; None: all of it.
    supports: Sequence[npt.NDArray[np.float64] | None] | None = None
    # (N / 2,) int64: the place each pair shows. Pairs of one place are no negatives of each other. None: all
    # differ.
    groups: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.maps.values())))

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Return the batch in memory that a GPU copies from by itself."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        maps = {name: change(value) for name, value in self.maps.items()}
        labels = None if self.labels is None else change(self.labels)
        return dataclasses.replace(self, maps=maps, labels=labels)


@dataclass(frozen=True)
class Step:
    """What a loss sees of one micro-batch."""

    batch: Batch  # its `maps` hold whatever the losses of the stage asked for
    features: Tensor  # (N, C, h, w) float32: conv4, with gradient where the trunk is trained
    network: DelfNetwork  # with the weights under training
    fitted: bool  # whether the network's projection has been fitted by a PCA stage
    rng: np.random.Generator  # fresh for this micro-batch: a function of seed, stage and step alone

    def describe(self, vectors: Tensor) -> Tensor:
        """Map (N, C) feature vectors to unit descriptors: by the projection, before there is one by L2 alone."""
        return self.network.projection(vectors) if self.fitted else F.normalize(vectors, dim=1)

    def global_vectors(self) -> Tensor:
        """Return the (N, G) global descriptors of the images, of a stage that trains them, at unit length."""
        assert self.network.global_layer is not None, "losses see to it that the stage trains one"
        vectors: Tensor = self.network.global_layer(self.features)
        return vectors


@dataclass(frozen=True)
class StageFacts:
    """What a loss may know when it is built."""

    kind: Kind  # of the source
    n_classes: int | None  # of the source, where it has labels
    fitted: bool  # whether a PCA stage came before
    trains: frozenset[str]  # parts of the network the stage trains
    channels: Mapping[str, int] = field(default_factory=dict)  # channels of the maps of each teacher, by name


@dataclass(frozen=True)
class TeacherContext:
    """What a teacher may use when it is built: photographs to fit a PCA on, the device, and the autocast type."""

    photos: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    progress: Callable[[int, int], None]


class Teacher(Protocol):
    """A frozen network that describes the cells of an image by `channels` numbers.

    A class of `registry.TEACHERS` has a constructor ``(argument: str, context: TeacherContext)``; `argument` is
    what stands behind the colon in a recipe's ``teacher = "kind:argument"``.
    """

    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, channels, ceil(H / 16), ceil(W / 16)) unit descriptors of cells."""


@dataclass(frozen=True)
class Forward:
    """Computes the part of the network above what a batch holds, and the maps of teachers that it lacks."""

    network: DelfNetwork
    fitted: bool  # whether its projection is fitted
    seed: int  # of the steps' random numbers
    device: torch.device
    dtype: torch.dtype  # of the trunk's arithmetic
    trains: Collection[str] = ()  # parts under training; what lies below them gets no gradient
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    start: Trunk | None = None  # the trunk as the stage begins, if losses want its maps

    def __call__(self, batch: Batch, index: int) -> Step:
        """Return the step of micro-batch number `index`."""
        batch = batch.to(self.device)
        features = self._conv4(self.network.trunk, batch.maps)
        maps = dict(batch.maps)
        with torch.no_grad():
            for name, teacher in self.teachers.items():
                if name not in maps:
                    if "images" not in maps:
                        raise ConfigError(f"the source gives neither images nor the maps of teacher {name}")
                    maps[name] = teacher(maps["images"])
            if self.start is not None and START not in maps:
                maps[START] = self._conv4(self.start, batch.maps)
        rng = np.random.default_rng((self.seed, 5, index))
        return Step(dataclasses.replace(batch, maps=maps), features, self.network, self.fitted, rng)

    def _conv4(self, trunk: Trunk, maps: Mapping[str, Tensor]) -> Tensor:
        all_of_it = "trunk" in self.trains
        last = all_of_it or "layer3" in self.trains
        level: Level = "conv4" if "conv4" in maps else "conv3" if "conv3" in maps else "images"
        if (level == "conv4" and last) or (level == "conv3" and all_of_it):
            raise ConfigError(f"the source gives {level}, which the stage trains: it must give an earlier map")
        if level == "conv4":
            return maps["conv4"].float()
        grad = torch.is_grad_enabled()
        with autocast(self.device, self.dtype):
            if level == "conv3":
                conv3 = maps["conv3"].float().contiguous(memory_format=torch.channels_last)
            else:
                with torch.set_grad_enabled(grad and all_of_it):
                    conv3 = trunk.stem(self.network.normalise(maps["images"]))
            with torch.set_grad_enabled(grad and last):
                return trunk.last(conv3).float()
