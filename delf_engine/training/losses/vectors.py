"""Losses on global descriptors of pairs: images of one place near each other, those of other places far.

The places of a batch are the ``groups`` of its pairs; negatives are the nearest images of its other places, so
that look-alikes that a source draws together are the hardest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from delf_engine.config import Count, Positive
from delf_engine.errors import ConfigError
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import Kind, StageFacts, Step
from delf_engine.training.contract import Loss, LossOptions

_EPSILON = 1e-12  # under roots, which have no slope at 0


def global_dim(options: LossOptions, network: DelfNetwork, facts: StageFacts) -> int:
    """Return the components of the global descriptor that a stage trains; a `ConfigError` if it trains none."""
    if "global" not in facts.trains or network.global_layer is None:
        raise ConfigError(f"loss {options.kind} is on global descriptors: add 'global' to the stage's train")
    return network.global_layer.linear.out_features


class ClustersOptions(LossOptions):
    """Options of coupled clusters."""

    # What negatives must be farther than positives; of squared distances, which are 4 at most.
    margin: Positive = 0.1


class MarginOptions(ClustersOptions):
    """Options of losses that push each image away from the `hardest` nearest ones of other places in the batch."""

    hardest: Count = 5


class ContrastiveOptions(MarginOptions):
    """Options of the contrastive loss."""

    # Images of two places at least so far apart, as a distance, cost nothing.
    margin: Annotated[float, Field(gt=0, le=2)] = 0.7


def contrastive(vectors: Tensor, place: Tensor, *, margin: float, hardest: int) -> Tensor:
    """Half the squared distance of each pair, and half the squared hinge to its negatives (Radenović, TPAMI 2018).

    Of `vectors`, (2 P, G), image i and image P + i are a pair; `place` is that of each, (2 P,) int64. The margin
    is one of distances, not squared; each image has its `hardest` negatives.
    """
    squared = _squared_distances(vectors, vectors)
    apart = (_negatives(squared, place, hardest) + _EPSILON).sqrt()
    return 0.5 * (_of_pairs(squared) + (margin - apart).clamp_min(0).square().sum(1)).mean()


def triplet(vectors: Tensor, place: Tensor, *, margin: float, hardest: int) -> Tensor:
    """Hinge of each image's pair against its negatives, of squared distances (Schroff et al., CVPR 2015).

    Parameters are those of `contrastive`.
    """
    squared = _squared_distances(vectors, vectors)
    hinge = margin + _of_pairs(squared)[:, None] - _negatives(squared, place, hardest)
    return hinge.clamp_min(0).sum(1).mean()


def ranking(vectors: Tensor, place: Tensor, *, margin: float, hardest: int) -> Tensor:
    """Hinge of the best of all images of the place against the negatives (NetVLAD: Arandjelović, CVPR 2016).

    Supervision is weak: images of a place may show nothing in common, so that only the nearest need be near.
    Parameters are those of `contrastive`.
    """
    squared = _squared_distances(vectors, vectors)
    other = (place[:, None] != place) | torch.eye(len(place), dtype=torch.bool, device=place.device)
    best = squared.masked_fill(other, torch.inf).amin(1)
    hinge = margin + best[:, None] - _negatives(squared, place, hardest)
    return hinge.clamp_min(0).sum(1).mean()


def coupled_clusters(vectors: Tensor, place: Tensor, *, margin: float) -> Tensor:
    """Half the hinge of each image to its place's centre against the centre's nearest negative (Liu, CVPR 2016).

    Squared distances. Parameters are those of `contrastive`; every place has its cluster, and the images of all
    others are its negatives.
    """
    own = place.unique()[:, None] == place
    shares = own.to(vectors)
    squared = _squared_distances(shares @ vectors / shares.sum(1, keepdim=True), vectors)
    nearest = squared.masked_fill(own, torch.inf).amin(1, keepdim=True)
    return 0.5 * (margin + squared - nearest).clamp_min(0)[own].mean()


class VectorLoss(Loss):
    """The mean over images of a function of descriptors and places; a subclass says which."""

    needs: ClassVar[Kind | None] = "pairs"
    of: ClassVar[Callable[..., Tensor]]

    def __init__(self, options: LossOptions, network: DelfNetwork, facts: StageFacts) -> None:
        super().__init__(options, network, facts)
        global_dim(options, network, facts)
        self._given = options.model_dump(exclude=set(LossOptions.model_fields))

    def forward(self, step: Step) -> Tensor:
        """Return it for the pairs of a batch; they show different places where it does not say otherwise."""
        vectors, groups = step.global_vectors(), step.batch.groups
        place = torch.arange(len(vectors) // 2) if groups is None else torch.from_numpy(groups)
        return type(self).of(vectors, place.repeat(2).to(vectors.device, non_blocking=True), **self._given)


class GlobalContrastive(VectorLoss):
    """See `contrastive`."""

    Options = ContrastiveOptions
    of = staticmethod(contrastive)


class GlobalTriplet(VectorLoss):
    """See `triplet`."""

    Options = MarginOptions
    of = staticmethod(triplet)


class NetvladRanking(VectorLoss):
    """See `ranking`."""

    Options = MarginOptions
    of = staticmethod(ranking)


class CoupledClusters(VectorLoss):
    """See `coupled_clusters`."""

    Options = ClustersOptions
    of = staticmethod(coupled_clusters)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def _of_pairs(squared: Tensor) -> Tensor:
    """Return the squared distance of each image to the other one of its pair."""
    return squared.diagonal(len(squared) // 2).repeat(2)


def _negatives(squared: Tensor, place: Tensor, hardest: int) -> Tensor:
    """Return the smallest squared distances of each image to those of other places; infinity where none is."""
    apart = squared.masked_fill(place[:, None] == place, torch.inf)
    return apart.topk(min(hardest, len(apart)), largest=False).values
