"""Landmark classification by softmax cross-entropy: both stages of DELF (Noh et al., ICCV 2017)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import StageFacts
from delf_engine.training.classification import ClassificationLoss, ClassificationOptions
from delf_engine.training.contract import LossOptions

__all__ = ["Softmax"]


class SoftmaxOptions(ClassificationOptions):
    """Options of the softmax loss.

    Attributes
    ----------
    initial_std : float
        Standard deviation of the classifier's first weights.
    """

    initial_std: Annotated[float, Field(gt=0)] = 0.01


class Softmax(ClassificationLoss):
    """A linear classifier with bias on pooled features."""

    Options = SoftmaxOptions
    options: SoftmaxOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.weight = nn.Parameter(self.options.initial_std * torch.randn(self.n_classes, self.dim))
        self.bias = nn.Parameter(torch.zeros(self.n_classes))

    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) to (B, n_classes); the labels change nothing."""
        return F.linear(pooled, self.weight, self.bias)
