"""What the classification losses share: pooling, cross-entropy, and accuracy on held-out photographs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import Kind, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions
from delf_engine.training.pooling import Pooling, pool_attention, pool_gem, pool_mean

__all__ = ["ClassificationLoss", "ClassificationOptions"]


class ClassificationOptions(LossOptions):
    """Options of every classification loss.

    Attributes
    ----------
    pooling : "mean", "gem" or "attention"
        How conv4 becomes one vector an image; "attention" is what trains the attention head.
    gem_power : float
        Of "gem".
    normalised : bool
        For "attention": L2-normalise each cell's vector before it is weighted.
    label_smoothing : float
        Share of the target spread evenly over all classes.
    """

    pooling: Pooling = "mean"
    gem_power: Annotated[float, Field(gt=0)] = 3.0
    normalised: bool = False
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


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

    @abstractmethod
    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) pooled features to (B, n_classes) logits; with `labels`, as they are trained on."""

    def pool(self, step: Step) -> Tensor:
        """Return the (B, C) vectors that are classified."""
        features = step.features.float()
        if self.options.pooling == "attention":
            scores = step.network.attention(features)
            return pool_attention(features, scores, normalised=self.options.normalised)
        if self.options.pooling == "gem":
            return pool_gem(features, self.options.gem_power)
        return pool_mean(features)

    def forward(self, step: Step) -> Tensor:
        """Return the mean cross-entropy."""
        labels = _labels(step)
        # A margin of 0.1 is lost in bfloat16, and the work here is small.
        with torch.autocast(step.features.device.type, enabled=False):
            logits = self.logits(self.pool(step), labels)
            return F.cross_entropy(logits, labels, label_smoothing=self.options.label_smoothing)

    @torch.no_grad()
    def measure(self, step: Step) -> Mapping[str, float]:
        """Return the share of the batch whose best class is the right one; of equal ones the first counts."""
        with torch.autocast(step.features.device.type, enabled=False):
            best = self.logits(self.pool(step), None).argmax(1)
        accuracy = float((best == _labels(step)).double().mean())
        # Named by the pooling: a recipe may classify in two stages, and both figures go into the checkpoint.
        return {f"held-out classification accuracy, {self.options.pooling} pooling": accuracy}


def _labels(step: Step) -> Tensor:
    if step.batch.labels is None:
        raise ConfigError("a classification loss was given a batch without labels; its stage needs another source")
    return step.batch.labels
