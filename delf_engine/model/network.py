"""The whole network: trunk, attention head, projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delf_engine.model.backbones import Trunk, build_trunk

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "AttentionHead", "DelfNetwork", "Projection", "normalise_images"]

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
    """

    def __init__(self, channels: int, hidden: int = 512, *, norm_weighted: bool = True) -> None:
        super().__init__()
        self.norm_weighted = norm_weighted
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, 1, 1)

    def logits(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, h, w) logits."""
        return self.conv2(F.relu(self.conv1(features))).squeeze(1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, h, w) features to (B, h, w) scores, all >= 0."""
        scores = F.softplus(self.logits(features))
        return scores * features.norm(dim=1) if self.norm_weighted else scores


class Projection(nn.Module):
    """Descriptors from feature vectors: L2, subtract the mean, project, L2.

    Buffers `mean` (C,) and `components` (D, C) come from PCA on L2-normalised features.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("components", torch.eye(dim, channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (N, C) feature vectors to (N, D) unit descriptors; a vector that projects to nothing stays 0."""
        centred = F.normalize(vectors, dim=1) - self.mean
        return F.normalize(centred @ self.components.T, dim=1)


class DelfNetwork(nn.Module):
    """Trunk cut at conv4, attention head and projection.

    Parameters
    ----------
    architecture : str
        A name of `backbones.ARCHITECTURES`.
    dim : int
        Descriptor dimension D.
    hidden : int
        Hidden channels of the attention head.
    norm_weighted : bool
        See `AttentionHead`.
    """

    def __init__(
        self,
        architecture: str,
        dim: int = 40,
        *,
        hidden: int = 512,
        norm_weighted: bool = True,
        trunk: Trunk | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk if trunk is not None else build_trunk(architecture)
        self.attention = AttentionHead(self.trunk.channels, hidden, norm_weighted=norm_weighted)
        self.projection = Projection(self.trunk.channels, dim)

    @property
    def stride(self) -> int:
        """Of the feature map, in pixels of the network's input."""
        return self.trunk.stride

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.projection.components.shape[0])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised (B, 3, H, W) images to (B, C, h, w) features and (B, h, w) attention scores."""
        features = self.trunk(images)
        return features, self.attention(features)


def normalise_images(images: Tensor) -> Tensor:
    """Map (B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 as ImageNet trunks expect it, channels last.

    Channels last is what the memory of an RGB array is already, so nothing is transposed.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=images.device) * 255
    scale = 1 / (torch.tensor(IMAGENET_STD, device=images.device) * 255)
    return images.to(torch.float32).sub_(mean).mul_(scale).permute(0, 3, 1, 2)
