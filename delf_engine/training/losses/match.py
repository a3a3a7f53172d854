"""The attention head as a predictor of correct matches.

Its label needs no annotation: is the nearest neighbour of this cell's descriptor, among all cells of the second
views of a whole batch of photographs, at its true place? What repeats, is unique, and survives the descriptor gets
a high score; sky, foliage and people's sleeves do not.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.config import Count, Positive
from delf_engine.errors import ConfigError
from delf_engine.model.network import AttentionHead, DelfNetwork
from delf_engine.training.batches import Kind, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions
from delf_engine.training.correspondence import (
    CellSample,
    Direction,
    cell_grid,
    cell_vectors,
    directions,
    same_group,
)


class MatchOptions(LossOptions):
    """Options of the match label."""

    cells: Count = 64  # cells drawn of each pair and direction
    # A nearest neighbour within this distance of the true place, in pixels of the view, is correct.
    correct_px: Positive = 28.0
    support_px: Positive = 32.0  # of mined pairs, cells farther than this from every inlier match are not drawn


class Match(Loss):
    """Binary cross-entropy of the attention logits against the match label, both directions of each pair.

    Only the head learns from it: features are taken without gradient.
    """

    Options = MatchOptions
    needs: ClassVar[Kind | None] = "pairs"
    options: MatchOptions

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        if "attention" not in facts.trains:
            raise ConfigError("loss match trains the attention head: add 'attention' to the stage's train")
        if not facts.fitted:
            raise ConfigError("loss match asks which descriptors match: put a pca stage before it")

    def forward(self, step: Step) -> Tensor:
        """Return the mean over both directions."""
        head = step.network.attention
        assert isinstance(head, AttentionHead), "only a head has logits"
        losses = []
        for direction in directions(step, step.features.detach()):
            vectors, labels = labelled_cells(direction, step, self.options)
            if len(vectors):
                logits = head.logits(vectors[:, :, None, None])[:, 0, 0]
                losses.append(F.binary_cross_entropy_with_logits(logits, labels))
        if not losses:
            return head.conv2.bias.sum() * 0 if head.conv2.bias is not None else step.features.sum() * 0
        return torch.stack(losses).mean()


def labelled_cells(direction: Direction, step: Step, options: MatchOptions) -> tuple[Tensor, Tensor]:
    """Draw cells of the first views, (N, C), and say which would be matched correctly, (N,), by 1 or 0."""
    height, width = direction.first.shape[2:]
    sample = direction.sample(step, options.cells, options.support_px)
    with torch.no_grad():
        vectors = cell_vectors(direction.first, sample)
        flat = direction.second.flatten(2).transpose(1, 2)
        gallery = step.describe(flat.reshape(-1, flat.shape[2])).unflatten(0, flat.shape[:2])
        grid = torch.from_numpy(cell_grid(height, width, step.network.stride).astype(np.float32))
        places = grid.to(vectors.device, non_blocking=True)
        labels = match_labels(
            step.describe(vectors),
            sample,
            gallery,
            places,
            correct_px=options.correct_px,
            groups=direction.groups,
        )
    return vectors, labels.float()


def match_labels(
    descriptors: Tensor,
    sample: CellSample,
    gallery: Tensor,
    places: Tensor,
    *,
    correct_px: float,
    groups: Tensor | None = None,
) -> Tensor:
    """Say which nearest neighbours are right, (N,) bool.

    `descriptors`, (N, D), are those of the sampled cells, `gallery`, (B, M, D), those of all M cells of the B
    second views, whose centres are `places`, (M, 2) in pixels; right is what lies within `correct_px` of the true
    place. With `groups`, (B,) int64, cells of other pairs of the same place are passed over.
    """
    pair, true_place = sample.pair, sample.place
    count = gallery.shape[1]
    similarity = descriptors @ gallery.flatten(0, 1).T
    related = same_group(groups, pair, torch.arange(len(gallery), device=pair.device))
    if related is not None:
        similarity = similarity.masked_fill(related.repeat_interleave(count, 1), -torch.inf)
    nearest = similarity.argmax(1)
    distance = (places[nearest % count] - true_place).norm(dim=1)
    return (nearest // count == pair) & (distance <= correct_px)
