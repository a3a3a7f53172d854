"""The whole network: trunk, attention head, projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delf_engine.model.backbones import Trunk, build_trunk
from delf_engine.model.pooling import gem

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class AttentionHead(nn.Module):
    """Scores of cells: conv1x1, ReLU, conv1x1, softplus (Noh et al., ICCV 2017).

    Parameters
    ----------
    channels : int
        Of the feature map.
    hidden : int
        512 in DELF.
    norm_weighted : bool
        Multiply the score by the L2 norm of the cell's feature vector, which by itself is a good
        attention (Tolias et al., ECCV 2020).
    bottleneck : int
        Above 0, the head sees the features through an autoencoder of this many channels: conv1x1,
        conv1x1, ReLU (DELG: Cao et al., ECCV 2020).
    """

    def __init__(
        self, channels: int, hidden: int = 512, *, norm_weighted: bool = True, bottleneck: int = 0
    ) -> None:
        super().__init__()
        self.norm_weighted = norm_weighted
        self.autoencoder: nn.Module = nn.Identity()
        if bottleneck:
            self.autoencoder = nn.Sequential(
                nn.Conv2d(channels, bottleneck, 1), nn.Conv2d(bottleneck, channels, 1), nn.ReLU()
            )
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, 1, 1)

    def logits(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, h, w) logits."""
        return self.conv2(F.relu(self.conv1(self.autoencoder(features)))).squeeze(1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, h, w) scores, all >= 0."""
        scores = F.softplus(self.logits(features))
        return scores * features.norm(dim=1) if self.norm_weighted else scores


class NormAttention(nn.Module):
    """Scores of cells: the L2 norm of their feature vectors (HOW: Tolias et al., ECCV 2020)."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, h, w) scores, all >= 0."""
        return features.norm(dim=1)


class Projection(nn.Module):
    """Descriptors from feature vectors: L2, subtract the mean, project, L2.

    Buffers `mean` (C,) and `components` (D, C) come from PCA on L2-normalised features. Published models
    that project features as they are leave out the first step (`unit_input` False).
    """

    mean: Tensor
    components: Tensor

    def __init__(self, channels: int, dim: int, *, unit_input: bool = True) -> None:
        super().__init__()
        self.unit_input = unit_input
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("components", torch.eye(dim, channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (N, C) feature vectors to (N, D) unit descriptors; a vector that projects to nothing stays 0."""
        centred = (F.normalize(vectors, dim=1) if self.unit_input else vectors) - self.mean
        return F.normalize(centred @ self.components.T, dim=1)


class GlobalLayer(nn.Module):
    """The global descriptor, (N, G), while it is trained: GeM, L2, linear layer, L2; later a `GlobalHead`."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))
        self.linear = nn.Linear(channels, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, G) unit vectors."""
        pooled: Tensor = gem(features, features, p=self.p)
        return F.normalize(self.linear(F.normalize(pooled, dim=1)), dim=1)


class DelfNetwork(nn.Module):
    """Trunk, attention head and projection.

    Parameters
    ----------
    architecture : str
        A name of `backbones.ARCHITECTURES`.
    dim : int
        Descriptor dimension D.
    hidden : int
        Hidden channels of the attention head.
    norm_weighted, bottleneck
        See `AttentionHead`.
    attention : "head" or "norm"
        `AttentionHead` or `NormAttention`.
    smoothing : int
        Side of the window over which features are averaged before they are projected, in cells, odd; 1: not.
        Scores come from the features as they were (HOW).
    unit_input : bool
        See `Projection`.
    mean, std : sequence of 3 float
        Of RGB in [0, 1], see `normalise_images`.

    Attributes
    ----------
    global_layer : GlobalLayer or None
        While a recipe trains one; no part of a checkpoint.
    """

    global_layer: GlobalLayer | None
    _offset: Tensor
    _scale: Tensor

    def __init__(
        self,
        architecture: str,
        dim: int = 40,
        *,
        hidden: int = 512,
        norm_weighted: bool = True,
        bottleneck: int = 0,
        attention: Literal["head", "norm"] = "head",
        smoothing: int = 1,
        unit_input: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk if trunk is not None else build_trunk(architecture)
        channels = self.trunk.channels
        self.attention: AttentionHead | NormAttention = NormAttention()
        if attention == "head":
            self.attention = AttentionHead(channels, hidden, norm_weighted=norm_weighted, bottleneck=bottleneck)
        self.projection = Projection(channels, dim, unit_input=unit_input)
        self.global_layer = None
        self.smoothing = smoothing
        self.mean, self.std = tuple(mean), tuple(std)
        # Where the network is: to bring them there for each batch would wait for all that the device works on.
        offset, scale = _shift(mean, std, None)
        self.register_buffer("_offset", offset, persistent=False)
        self.register_buffer("_scale", scale, persistent=False)

    @property
    def stride(self) -> int:
        """Of the feature map, in pixels of the network's input."""
        return self.trunk.stride

    @property
    def offset(self) -> float:
        """Of the centre of the map's first cell, in pixels of the network's input."""
        return self.trunk.offset

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.projection.components.shape[0])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised (B, 3, H, W) images to (B, C, h, w) features and (B, h, w) attention scores."""
        return self.heads(self.trunk(images))

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map the trunk's (B, C, h, w) output to features for the projection and (B, h, w) scores."""
        scores = self.attention(features)
        if self.smoothing > 1:
            side = self.smoothing
            features = F.avg_pool2d(features, side, stride=1, padding=side // 2, count_include_pad=False)
        return features, scores

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, 3) uint8 RGB to (B, C, h, w) features, channels last, and (B, h, w) float32 scores."""
        features, scores = self(self.normalise(images))
        return features.contiguous(memory_format=torch.channels_last), scores.float()

    def normalise(self, images: Tensor) -> Tensor:
        """Map (B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 as this network expects it."""
        return _shifted(images, self._offset, self._scale)


def normalise_images(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Map (B, H, W, 3) uint8 RGB to (B, 3, H, W) float32, (pixel / 255 - mean) / std, channels last.

    Channels last is what the memory of an RGB array is already, so nothing is transposed.
    """
    return _shifted(images, *_shift(mean, std, images.device))


def _shift(mean: Sequence[float], std: Sequence[float], device: torch.device | None) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, device=device) * 255, 1 / (torch.tensor(std, device=device) * 255)


def _shifted(images: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    return images.to(torch.float32).sub_(offset).mul_(scale).permute(0, 3, 1, 2)
