"""Classification with an angular margin: ArcFace (Deng et al., CVPR 2019), as DELG (ECCV 2020) uses it."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import StageFacts
from delf_engine.training.classification import ClassificationLoss, ClassificationOptions
from delf_engine.training.contract import LossOptions

__all__ = ["ArcFace", "add_margin"]


class ArcFaceOptions(ClassificationOptions):
    """Options of the ArcFace loss; the defaults are DELG's.

    Attributes
    ----------
    margin : float
        Added to the angle between an image and its class, radians.
    scale : float
        Factor of the cosines; 45.25 is the root of 2048.
    """

    margin: Annotated[float, Field(ge=0, lt=math.pi)] = 0.1
    scale: Annotated[float, Field(gt=0)] = 45.25


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
    """Replace cos(a) of each row's own class by cos(a + margin).

    Where a + margin passes a half turn, cos(a) stays, as in DELG's code: further on the cosine would rise again.

    Parameters
    ----------
    cosines : (B, n_classes) float32
    labels : (B,) int64
    margin : float
        Radians, 0 to pi.
    """
    own = cosines.gather(1, labels[:, None])
    # The root has no slope at 0, where the angle is 0 or a half turn; rounding may also bring it below.
    sine = (1 - own.square()).clamp_min(1e-7).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    return cosines.scatter(1, labels[:, None], torch.where(own >= -math.cos(margin), turned, own))
