"""Batches, the steps that losses see of them, and the teachers whose maps they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.model.network import DelfNetwork

__all__ = ["START", "Batch", "Kind", "StageFacts", "Step", "Teacher", "TeacherContext"]

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


@dataclass(frozen=True)
class TeacherContext:
    """What a teacher may use when it is built: photographs to fit a PCA on, the device, and the autocast type."""

    photos: Sequence[str]
    device: torch.device
    dtype: torch.dtype
    progress: Callable[[int, int], None]


class Teacher(Protocol):
    """A frozen network that describes the cells of an image.

    A class of `registry.TEACHERS` has a constructor ``(argument: str, context: TeacherContext)``; `argument` is
    what stands behind the colon in a recipe's ``teacher = "kind:argument"``.

    Attributes
    ----------
    channels : int
        Of its maps.
    """

    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, channels, ceil(H / 16), ceil(W / 16)) unit descriptors of cells."""
