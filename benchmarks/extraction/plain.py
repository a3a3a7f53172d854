"""The extractor as it is usually written: what ours is timed against, and must agree with.

One image at a time, eager torch, float32, NCHW, batch norm as layers of its own, every cell projected before the
best are selected: the way the released implementations work. Levels are resized by the same filter as ours, so
that features can be compared one by one.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from delf_engine import Extractor, LocalFeatures
from delf_engine.extraction.content import textured
from delf_engine.model import load_checkpoint
from delf_engine.model.network import AttentionHead, DelfNetwork
from delf_engine.pyramid import plan_levels, resize

__all__ = ["PlainExtractor"]


class PlainExtractor:
    """Extracts as `extractor` does with the same checkpoint, plainly."""

    def __init__(self, model: str, extractor: Extractor) -> None:
        network, _ = load_checkpoint(model)
        self.config = extractor.config
        self.stride = network.stride
        self.trunk = unfused(network)
        assert isinstance(network.attention, AttentionHead)
        self.attention = network.attention.eval().requires_grad_(False)
        self.mean, self.components = network.projection.mean, network.projection.components
        self.pixel_mean = torch.tensor(network.mean).view(1, 3, 1, 1)
        self.pixel_std = torch.tensor(network.std).view(1, 3, 1, 1)

    @torch.no_grad()
    def __call__(self, path: Path) -> LocalFeatures:
        """Return the features of one photograph."""
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
        size = (image.shape[1], image.shape[0])
        config = self.config
        descriptors, scores, places, scales = [], [], [], []
        for level in plan_levels(
            size,
            config.scales,
            max_image_size=config.max_image_size,
            min_side=config.min_side,
            min_image_size=config.min_image_size,
            fill_scales=config.fill_scales,
            fill_to=config.max_features,
            stride=self.stride,
        ):
            resized = resize(image, level.width, level.height, config.resize)
            pixels = torch.from_numpy(resized.transpose(2, 0, 1).copy())[None].float() / 255
            features = self.trunk((pixels - self.pixel_mean) / self.pixel_std)
            seen = torch.from_numpy(textured(resized, self.stride, 3 * self.stride, config.min_contrast))
            scores.append(torch.where(seen, self.attention(features)[0], -1).reshape(-1))
            vectors = F.normalize(features[0].permute(1, 2, 0).reshape(-1, features.shape[1]), dim=1)
            descriptors.append(F.normalize((vectors - self.mean) @ self.components.T, dim=1))
            rows, columns = torch.meshgrid(*map(torch.arange, features.shape[2:]), indexing="ij")
            cells = torch.stack([columns, rows], -1).reshape(-1, 2) * float(self.stride)
            ratio = torch.tensor([size[0] / level.width, size[1] / level.height])
            places.append((cells + 0.5) * ratio - 0.5)
            scales.append(torch.full((len(cells),), 1 / level.scale))
        best = torch.cat(scores).topk(min(config.max_features, sum(map(len, scores))))
        chosen = best.indices[best.values >= 0]
        return LocalFeatures(
            torch.cat(places)[chosen].float().numpy(),
            torch.cat(scales)[chosen].numpy(),
            best.values[: len(chosen)].numpy(),
            torch.cat(descriptors)[chosen].numpy(),
            size,
        )


def unfused(network: DelfNetwork) -> nn.Module:
    """Return the trunk with its batch norm unfolded again, as published weights have it; the same function."""
    trunk = copy.deepcopy(network.trunk)
    for parent in list(trunk.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d):
                setattr(parent, name, _unfolded(conv))
    return trunk.eval().requires_grad_(False)


def _unfolded(folded: nn.Conv2d) -> nn.Sequential:
    """Return a convolution and a batch norm that do what a folded one does, with statistics that are drawn."""
    assert folded.bias is not None
    conv, norm, bias = copy.deepcopy(folded), nn.BatchNorm2d(folded.out_channels), folded.bias.detach()
    spread = 0.5 + torch.rand(len(bias), generator=torch.Generator().manual_seed(0))
    assert norm.running_var is not None
    assert norm.running_mean is not None
    with torch.no_grad():
        norm.running_var.copy_(spread**2 - norm.eps)
        norm.running_mean.copy_(bias)  # of the size of what it is taken from: nothing cancels
        norm.weight.copy_(torch.ones_like(bias))
        norm.bias.copy_(bias + norm.running_mean / spread)
        conv.weight.copy_(folded.weight * spread[:, None, None, None])
    conv.bias = None
    return nn.Sequential(conv, norm)
