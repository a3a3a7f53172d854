"""Landmark classification: softmax, both stages of DELF, and ArcFace, as DELG has it; with their pooling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import Kind, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions
from delf_engine.training.losses.vectors import global_dim


class ClassificationOptions(LossOptions):
    """Options of every classification loss."""

    # How conv4 becomes one vector an image; "attention" is what trains the attention head, "global" the global
    # descriptor. The published systems classify by conv5 in stage 1; the trunks of this package end at conv4, so
    # that is what is pooled.
    pooling: Literal["mean", "attention", "global"] = "mean"
    # The trunk does not learn from this loss: of DELG's two that train one trunk it is that of the attention.
    detached: bool = False


class ClassificationLoss(Loss):
    """Cross-entropy over the classes of the source. A subclass says what the logits are."""

    Options: ClassVar[type[LossOptions]] = ClassificationOptions
    needs: ClassVar[Kind | None] = "labels"
    options: ClassificationOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        if facts.n_classes is None or facts.n_classes < 2:
            raise ConfigError(
                f"the loss {options.kind!r} tells classes apart and needs a source with at least 2 of them, "
                f"this one has {facts.n_classes or 'no labels'}"
            )
        self.n_classes = facts.n_classes
        self.dim = network.trunk.channels
        if self.options.pooling == "global":
            self.dim = global_dim(options, network, facts)

    @abstractmethod
    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) pooled features to (B, n_classes) logits; with `labels`, as they are trained on."""

    def pool(self, step: Step) -> Tensor:
        """Return the (B, C) vectors that are classified."""
        if self.options.detached:
            step = replace(step, features=step.features.detach())
        if self.options.pooling == "global":
            return step.global_vectors()
        features = step.features.float()
        if self.options.pooling == "attention":
            return pool_attention(features, step.network.attention(features))
        return features.mean((2, 3))

    def forward(self, step: Step) -> Tensor:
        """Return the mean cross-entropy."""
        labels = _labels(step)
        # A margin of 0.1 is lost in bfloat16, and the work here is small.
        with torch.autocast(step.features.device.type, enabled=False):
            logits = self.logits(self.pool(step), labels)
            return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def measure(self, step: Step) -> Mapping[str, float]:
        """Return the share of the batch whose best class is the right one; of equal ones the first counts."""
        with torch.autocast(step.features.device.type, enabled=False):
            best = self.logits(self.pool(step), None).argmax(1)
        accuracy = float((best == _labels(step)).double().mean())
        # Named by the pooling: a recipe may classify in two stages, and both figures go into the checkpoint.
        return {f"held-out classification accuracy, {self.options.pooling} pooling": accuracy}


def pool_attention(features: Tensor, scores: Tensor) -> Tensor:
    """Sum of (B, C, h, w) features weighted by (B, h, w) scores, over the number of cells, to (B, C).

    The weighted sum of DELF (Noh et al., ICCV 2017, section 3.3); divided by h w, as crops come in many sizes and
    the classifier behind it should see one range of values.
    """
    return (features * scores[:, None]).mean((2, 3))


def _labels(step: Step) -> Tensor:
    if step.batch.labels is None:
        raise ConfigError("a classification loss was given a batch without labels; its stage needs another source")
    return step.batch.labels


class Softmax(ClassificationLoss):
    """A linear classifier with bias on pooled features."""

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.weight = nn.Parameter(0.01 * torch.randn(self.n_classes, self.dim))
        self.bias = nn.Parameter(torch.zeros(self.n_classes))

    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) to (B, n_classes); the labels change nothing."""
        return F.linear(pooled, self.weight, self.bias)


class ArcFaceOptions(ClassificationOptions):
    """Options of the ArcFace loss; the defaults are DELG's."""

    # Added to the angle between an image and its class, radians.
    margin: Annotated[float, Field(ge=0, lt=math.pi)] = 0.1
    scale: Annotated[float, Field(gt=0)] = 45.25  # factor of the cosines; 45.25 is the root of 2048


class ArcFace(ClassificationLoss):
    """Cosines between pooled features and one vector a class, with a margin on the right class while training."""

    Options = ArcFaceOptions
    options: ArcFaceOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(self.n_classes, self.dim)))

    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) to (B, n_classes), with the margin where `labels` are given."""
        cosines = F.linear(F.normalize(pooled, dim=1), F.normalize(self.weight, dim=1))
        if labels is not None:
            cosines = add_margin(cosines, labels, self.options.margin)
        return cosines * self.options.scale


def add_margin(cosines: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Replace cos(a) of each row's own class, (B, n_classes), by cos(a + margin), the margin in radians.

    Where a + margin passes a half turn, cos(a) stays, as in DELG's code: further on the cosine would rise again.
    """
    own = cosines.gather(1, labels[:, None])
    # The root has no slope at 0, where the angle is 0 or a half turn; rounding may also bring it below.
    sine = (1 - own.square()).clamp_min(1e-7).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    return cosines.scatter(1, labels[:, None], torch.where(own >= -math.cos(margin), turned, own))
