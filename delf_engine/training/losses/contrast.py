"""Dense contrast between views: a cell's descriptor must find its own place among all others."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from delf_engine.config import Count, Positive
from delf_engine.training.batches import Kind, Step
from delf_engine.training.contract import Loss, LossOptions
from delf_engine.training.correspondence import CellSample, cell_vectors, directions, same_group, sample_at


class ContrastOptions(LossOptions):
    """Options of dense contrast."""

    cells: Count  # cells drawn of each pair
    temperature: Positive = 0.07  # of the softmax
    # Cells nearer than this to the true place, in pixels of the view, are not negatives.
    exclusion_px: Annotated[float, Field(ge=0)] = 40.0
    support_px: Positive = 32.0  # of mined pairs, cells farther than this from every inlier match are not drawn
    # Share of the drawn cells that take part, those whose feature vectors are longest: sky and walls cannot be
    # told apart, and should not have to be.
    best: Annotated[float, Field(gt=0, le=1)] = 1.0


class Contrast(Loss):
    """Symmetric InfoNCE on descriptors of corresponding cells (van den Oord et al. 2018).

    Measured on descriptors under the projection fitted before, the space in which they will be matched.
    """

    Options = ContrastOptions
    needs: ClassVar[Kind | None] = "pairs"
    options: ContrastOptions

    def forward(self, step: Step) -> Tensor:
        """Return the mean cross-entropy; 0 if no cell of any pair is seen twice."""
        forward = next(directions(step))
        sample = forward.sample(step, self.options.cells, self.options.support_px)
        if len(sample.pair) == 0:
            return step.features.sum() * 0
        sample = strongest(sample, cell_vectors(forward.first.detach(), sample), self.options.best)
        a = step.describe(cell_vectors(forward.first, sample))
        b = step.describe(sample_at(forward.second, sample, stride=step.network.stride))
        return contrast(
            a,
            b,
            sample,
            temperature=self.options.temperature,
            exclusion_px=self.options.exclusion_px,
            groups=forward.groups,
        )


def strongest(sample: CellSample, vectors: Tensor, share: float) -> CellSample:
    """Keep this share of a sample, at least one cell: those with the longest of the (N, C) `vectors`."""
    if share >= 1:
        return sample
    count = max(1, round(share * len(vectors)))
    order = vectors.norm(dim=1).argsort(descending=True, stable=True)
    kept = order[:count].sort().values
    return CellSample(sample.pair[kept], sample.cell[kept], sample.place[kept])


def contrast(
    a: Tensor,
    b: Tensor,
    sample: CellSample,
    *,
    temperature: float,
    exclusion_px: float,
    groups: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each of (N, D) `a` must find its own of (N, D) `b` among all, and back.

    Other samples of the same pair within `exclusion_px` of the true place, and all of other pairs of the same
    place, are neither right nor wrong.
    """
    pair, place = sample.pair, sample.place
    logits = a @ b.T / temperature
    ignored = (torch.cdist(place, place) < exclusion_px) & (pair[:, None] == pair[None])
    ignored &= ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    related = same_group(groups, pair, pair)
    if related is not None:
        ignored |= related
    logits = logits.masked_fill(ignored, -torch.inf)
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
