"""Distillation: stay near a teacher, or learn to describe as it does.

The teacher sees the same view and its cells have the same stride, so that cells line up one to one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.config import Count, Positive
from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import START, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions

__all__ = ["Distillation", "DistillationOptions", "feature_distance", "similarity_divergence"]


class DistillationOptions(LossOptions):
    """Options of distillation.

    Attributes
    ----------
    teacher : str
        ``start``: the trunk as it was when the stage began. A checkpoint by name or path. ``KIND:ARGUMENT`` for a
        registered kind: ``trunk:resnet50:FILE``, a trunk whose PCA is fitted on the fly; ``aliked:FILE``.
    target : "features", "descriptors" or "similarity"
        ``features``: squared distance of the feature maps, relative to the teacher's mean square (FitNets, Romero
        et al. 2015); channels must agree. ``descriptors``: cosine between the teacher's descriptors and a linear
        layer on the student's, which is thrown away afterwards. ``similarity``: KL divergence between the softmax
        of the similarities of each cell to all others, teacher to student (relational; Tejankar et al. 2021).
    temperature : float
        Of that softmax.
    cells : int
        Cells drawn of a batch for ``similarity``.
    best : float
        Share of the cells of a batch that ``descriptors`` compares, those whose feature vectors are longest.
    """

    teacher: str = START
    target: Literal["features", "descriptors", "similarity"] = "features"
    temperature: Positive = 0.1
    cells: Count = 1024
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
                f"the trunk {own}; choose target = 'descriptors' or 'similarity'"
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
        if self.options.target == "descriptors":
            longest = student.detach().norm(dim=1).argsort(descending=True, stable=True)
            kept = longest[: max(1, round(self.options.best * len(student)))]
            guess = F.normalize(self.regression(F.normalize(student[kept], dim=1)), dim=1)
            return (1 - (guess * taught[kept]).sum(1)).mean()
        drawn = torch.from_numpy(_draw(len(student), self.options.cells, step.rng)).to(student.device)
        return similarity_divergence(
            step.describe(student.index_select(0, drawn)), taught[drawn], self.options.temperature
        )


def feature_distance(maps: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of (B, C, h, w) features to the teacher's, relative to their mean square."""
    return (maps - teacher).square().mean() / teacher.square().mean().clamp_min(1e-12)


def similarity_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence between rows of softmax(similarity / temperature), teacher to student.

    Parameters
    ----------
    student : (N, D) tensor
        Unit descriptors of cells.
    teacher : (N, E) tensor
        Of the same cells. A cell's similarity to itself is left out.
    """
    if len(student) < 2:
        return student.sum() * 0
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    # (N, N - 1): without the diagonal, which a masked softmax would turn into 0 * -inf.
    rows = [(d @ d.T / temperature)[others].view(len(d), -1) for d in (student, teacher)]
    ours, theirs = (row.log_softmax(1) for row in rows)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).flatten(0, 1)


def _draw(total: int, count: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.sort(rng.permutation(total)[:count])
