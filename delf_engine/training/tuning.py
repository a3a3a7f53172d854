"""Light tuning of conv4: dense contrast between views, held near its start by distillation."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.model.backbones import Trunk
from delf_engine.model.network import Projection
from delf_engine.training.config import TuningConfig
from delf_engine.training.correspondence import CellSample, cell_vectors, sample_at, sample_cells
from delf_engine.training.maps import ViewMaps, draw_pairs

__all__ = ["contrast", "distillation", "tune_trunk"]


def tune_trunk(
    trunk: Trunk,
    projection: Projection,
    conv3: ViewMaps,
    config: TuningConfig,
    *,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
) -> Trunk:
    """Return a copy of `trunk` whose conv4 was tuned; the stem is untouched.

    Contrast is measured on descriptors under the PCA of the untuned trunk, the space in which they will be
    matched, and not on full vectors.
    """
    tuned = copy.deepcopy(trunk)
    tuned.layer3.requires_grad_(True)
    rng = np.random.default_rng((seed, 1))
    optimiser = torch.optim.AdamW(
        tuned.layer3.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(config.steps, 1))
    for step, batch in enumerate(draw_pairs(conv3, pairs=config.pairs, steps=config.steps, rng=rng)):
        both = torch.cat([batch.first, batch.second]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            start = trunk.last(both)
        maps = tuned.last(both)
        first, second = maps.chunk(2)
        sample = sample_cells(
            batch.homographies,
            (maps.shape[2], maps.shape[3]),
            size=conv3.size,
            stride=trunk.stride,
            count=config.cells,
            rng=rng,
        )
        if len(sample.pair) == 0:
            continue
        a = projection(cell_vectors(first, sample))
        b = projection(sample_at(second, sample, stride=trunk.stride))
        matching = contrast(a, b, sample, temperature=config.temperature, exclusion_px=config.exclusion_px)
        loss = matching + config.distillation * distillation(maps, start)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress:
            progress(step + 1, config.steps, float(matching.detach()))
    return tuned.requires_grad_(False)


def contrast(a: Tensor, b: Tensor, sample: CellSample, *, temperature: float, exclusion_px: float) -> Tensor:
    """Symmetric InfoNCE: each of (N, D) `a` must find its own of (N, D) `b` among all, and back.

    Other samples of the same pair within `exclusion_px` of the true place are neither right nor wrong.
    """
    logits = a @ b.T / temperature
    near = torch.cdist(sample.place, sample.place) < exclusion_px
    ignored = near & (sample.pair[:, None] == sample.pair[None]) & ~torch.eye(len(a), dtype=torch.bool)
    logits = logits.masked_fill(ignored, -torch.inf)
    target = torch.arange(len(a))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def distillation(maps: Tensor, start: Tensor) -> Tensor:
    """Mean squared distance of (B, C, h, w) features to their start, relative to their mean square."""
    return (maps - start).square().mean() / start.square().mean().clamp_min(1e-12)
