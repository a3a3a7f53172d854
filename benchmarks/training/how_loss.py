"""HOW's loss, ``kind = "how"``: contrast of aggregated vectors (Tolias et al., ECCV 2020).

Importing this registers it: a new loss needs no change of the trainer.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from delf_engine.config import Count
from delf_engine.training.batches import Kind, Step
from delf_engine.training.contract import Loss, LossOptions
from delf_engine.training.registry import LOSSES

__all__ = ["How", "HowOptions"]


class HowOptions(LossOptions):
    """Options of HOW's loss.

    Attributes
    ----------
    margin : float
        Images of two places at least so far apart cost nothing; vectors have length 1.
    hardest : int
        Nearest images of other places, within the batch, that each image is pushed away from.
    """

    margin: Annotated[float, Field(gt=0)] = 0.8
    hardest: Count = 5


class How(Loss):
    """Squared distances within pairs of one place, and squared hinges to the nearest images of other places.

    An image is the sum of the descriptors of its cells, smoothed over 3 x 3 of them and weighted by the length of
    their feature vectors.
    """

    Options = HowOptions
    needs: ClassVar[Kind | None] = "pairs"
    options: HowOptions

    def forward(self, step: Step) -> Tensor:
        """Return the mean over the pairs."""
        first, second = _aggregated(step).chunk(2)
        groups = step.batch.groups
        place = torch.arange(len(first)) if groups is None else torch.from_numpy(groups)
        same = (place[:, None] == place[None]).to(first.device)
        apart = torch.cdist(first, second).masked_fill(same, torch.inf)
        nearest = apart.topk(min(self.options.hardest, len(first)), largest=False).values
        hinge = (self.options.margin - nearest).clamp_min(0).square().sum(1)
        return ((first - second).square().sum(1) + hinge).mean()


def _aggregated(step: Step) -> Tensor:
    """Return one unit vector an image, (N, D)."""
    smooth = F.avg_pool2d(step.features, 3, stride=1, padding=1, count_include_pad=False)
    weights = step.features.norm(dim=1).flatten(1)
    cells = step.describe(smooth.flatten(2).transpose(1, 2).flatten(0, 1)).unflatten(0, weights.shape)
    return F.normalize((weights[:, :, None] * cells).sum(1), dim=1)


LOSSES["how"] = How
