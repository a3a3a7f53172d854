"""Landmark classification by softmax cross-entropy: both stages of DELF (Noh et al., ICCV 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import StageFacts
from delf_engine.training.classification import ClassificationLoss
from delf_engine.training.contract import LossOptions

__all__ = ["Softmax"]


class Softmax(ClassificationLoss):
    """A linear classifier with bias on pooled features."""

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        self.weight = nn.Parameter(0.01 * torch.randn(self.n_classes, self.dim))
        self.bias = nn.Parameter(torch.zeros(self.n_classes))

    def logits(self, pooled: Tensor, labels: Tensor | None) -> Tensor:
        """Map (B, C) to (B, n_classes); the labels change nothing."""
        return F.linear(pooled, self.weight, self.bias)
