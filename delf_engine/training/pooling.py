"""Pooling of conv4 to one vector an image, as classification by image-level labels needs it.

The published systems classify by conv5 in stage 1. The trunks of this package end at conv4, so that is what is
pooled.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Pooling", "pool_attention", "pool_gem", "pool_mean"]

#: ``mean``: average. ``gem``: generalised mean. ``attention``: sum weighted by attention scores.
Pooling = Literal["mean", "gem", "attention"]


def pool_mean(features: Tensor) -> Tensor:
    """Average (B, C, h, w) features over their cells to (B, C)."""
    return features.mean((2, 3))


def pool_gem(features: Tensor, power: float, *, smallest: float = 1e-6) -> Tensor:
    """Generalised mean over cells, (B, C, h, w) to (B, C) (Radenović et al., TPAMI 2019; power 3 in DELG).

    Values below `smallest` count as it. The largest value is divided out first, so no power overflows.
    """
    clamped = features.clamp_min(smallest)
    largest = clamped.detach().amax((2, 3), keepdim=True)
    return (clamped / largest).pow(power).mean((2, 3)).pow(1 / power) * largest[:, :, 0, 0]


def pool_attention(features: Tensor, scores: Tensor, *, normalised: bool = False) -> Tensor:
    """Sum of (B, C, h, w) features weighted by (B, h, w) scores, over the number of cells, to (B, C).

    The weighted sum of DELF (Noh et al., ICCV 2017, section 3.3); divided by h w, as crops come in many sizes and
    the classifier behind it should see one range of values.

    Parameters
    ----------
    normalised : bool
        L2-normalise each cell's vector first, as the code published with DELF and DELG does; the paper does not.
    """
    vectors = F.normalize(features, dim=1) if normalised else features
    return (vectors * scores[:, None]).mean((2, 3))
