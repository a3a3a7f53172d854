"""The attention head as a predictor of correct matches.

Its label needs no annotation: is the nearest neighbour of this cell's descriptor, among all cells of the second
views of a whole batch of photographs, at its true place? What repeats, is unique, and survives the descriptor gets
a high score; sky, foliage and people's sleeves do not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.model.network import AttentionHead, Projection
from delf_engine.training.config import HeadConfig
from delf_engine.training.correspondence import CellSample, cell_grid, cell_vectors, sample_cells
from delf_engine.training.maps import PairBatch, ViewMaps, draw_pairs

__all__ = ["match_labels", "match_precision", "train_match_head"]

STRIDE = 16


def train_match_head(
    projection: Projection,
    conv4: ViewMaps,
    config: HeadConfig,
    *,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> AttentionHead:
    """Train an attention head on frozen conv4 maps."""
    rng = np.random.default_rng((seed, 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentionHead(conv4.maps.shape[2], config.hidden, norm_weighted=config.norm_weighted)
    optimiser = torch.optim.AdamW(head.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, config))
    for step, batch in enumerate(draw_pairs(conv4, pairs=config.pairs, steps=config.steps, rng=rng)):
        losses = []
        for direction in (batch, batch.reversed()):
            vectors, labels = _labelled(direction, projection, conv4.size, config, rng)
            logits = head.logits(vectors[:, :, None, None])[:, 0, 0]
            losses.append(F.binary_cross_entropy_with_logits(logits, labels))
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress:
            progress(step + 1, config.steps, float(loss.detach()))
    return head.eval().requires_grad_(False)


def match_labels(
    descriptors: Tensor, sample: CellSample, gallery: Tensor, places: Tensor, *, correct_px: float
) -> Tensor:
    """Say which nearest neighbours are right.

    Parameters
    ----------
    descriptors : (N, D) float32
        Of the sampled cells.
    sample : CellSample
    gallery : (B, M, D) float32
        Descriptors of all M cells of the B second views.
    places : (M, 2) float32
        Centres of those cells, pixels.
    correct_px : float
        Largest distance to the true place.

    Returns
    -------
    (N,) bool
    """
    count = gallery.shape[1]
    nearest = (descriptors @ gallery.flatten(0, 1).T).argmax(1)
    distance = (places[nearest % count] - sample.place).norm(dim=1)
    return (nearest // count == sample.pair) & (distance <= correct_px)


def match_precision(
    head: AttentionHead | None, projection: Projection, conv4: ViewMaps, config: HeadConfig, *, seed: int
) -> float:
    """Share of correct nearest neighbours among the half of cells that score highest, on views not trained on.

    `head` None scores by the L2 norm.
    """
    rng = np.random.default_rng((seed, 3))
    right = []
    for batch in draw_pairs(conv4, pairs=config.pairs, steps=8, rng=rng):
        vectors, labels = _labelled(batch, projection, conv4.size, config, rng)
        maps = vectors[:, :, None, None]
        with torch.inference_mode():
            scores = head(maps)[:, 0, 0] if head is not None else vectors.norm(dim=1)
        best = scores.argsort(descending=True)[: max(1, len(scores) // 2)]
        right.append(labels[best])
    return float(torch.cat(right).mean())


def _labelled(
    batch: PairBatch, projection: Projection, size: int, config: HeadConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    height, width = batch.first.shape[2:]
    sample = sample_cells(
        batch.homographies, (height, width), size=size, stride=STRIDE, count=config.cells, rng=rng
    )
    vectors = cell_vectors(batch.first, sample)
    flat = batch.second.flatten(2).transpose(1, 2)
    with torch.inference_mode():
        gallery = projection(flat.flatten(0, 1)).unflatten(0, flat.shape[:2])
        places = torch.from_numpy(cell_grid(height, width, STRIDE).astype(np.float32))
        labels = match_labels(projection(vectors), sample, gallery, places, correct_px=config.correct_px)
    return vectors, labels.float().clone()


def _warm_cosine(step: int, config: HeadConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return float(0.5 * (1 + np.cos(np.pi * min(1.0, done))))
