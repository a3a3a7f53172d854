"""Distillation: stay near a teacher, or learn to describe as it does.

The teacher sees the same view and its cells have the same stride, so that cells line up one to one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import START, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions


class DistillationOptions(LossOptions):
    """Options of distillation."""

    # ``start``: the trunk as it was when the stage began. A checkpoint by name or path. ``KIND:ARGUMENT`` for a
    # registered kind: ``trunk:resnet50:FILE``, a trunk whose PCA is fitted on the fly; ``aliked:FILE``.
    teacher: str = START
    # ``features``: squared distance of the feature maps, relative to the teacher's mean square (FitNets, Romero et
    # al. 2015); channels must agree. ``descriptors``: cosine between the teacher's descriptors and a linear layer
    # on the student's, which is thrown away afterwards.
    target: Literal["features", "descriptors"] = "features"
    # Share of the cells of a batch that ``descriptors`` compares, those whose feature vectors are longest.
    best: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        """The one teacher."""
        return (self.teacher,)


class Distillation(Loss):
    """Distance of the student's cells to the teacher's."""

    Options = DistillationOptions
    options: DistillationOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        channels, own = facts.channels[self.options.teacher], network.trunk.channels
        if facts.trains.isdisjoint({"trunk", "layer3"}):
            raise ConfigError("loss distillation teaches the trunk: add 'layer3' or 'trunk' to the stage's train")
        if self.options.target == "features" and channels != own:
            raise ConfigError(
                f"distillation of features needs as many channels: teacher {self.options.teacher} has {channels}, "
                f"the trunk {own}; choose target = 'descriptors'"
            )
        if self.options.target == "descriptors":
            self.regression = nn.Linear(own, channels)

    def forward(self, step: Step) -> Tensor:
        """Return the distance by the chosen target."""
        teacher = step.batch.maps[self.options.teacher].float()
        if teacher.shape[2:] != step.features.shape[2:]:
            raise ConfigError(
                f"teacher {self.options.teacher} gives {tuple(teacher.shape[2:])} cells a view, the trunk "
                f"{tuple(step.features.shape[2:])}: it cannot teach this architecture"
            )
        if self.options.target == "features":
            return feature_distance(step.features, teacher)
        student, taught = _cells(step.features), F.normalize(_cells(teacher), dim=1)
        longest = student.detach().norm(dim=1).argsort(descending=True, stable=True)
        kept = longest[: max(1, round(self.options.best * len(student)))]
        guess = F.normalize(self.regression(F.normalize(student[kept], dim=1)), dim=1)
        return (1 - (guess * taught[kept]).sum(1)).mean()


def feature_distance(maps: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of (B, C, h, w) features to the teacher's, relative to their mean square."""
    return (maps - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)
