"""Trunks: ResNets cut at conv4 or conv5, and ViTs (Dosovitskiy et al., ICLR 2021; Oquab et al., TMLR 2024).

Batch norm is folded into the convolutions from the start, for training too: tuning a last stage with frozen
statistics is the same function, and there is one layout of weights instead of two. Names of ResNets are
torchvision's (``layer3.0.conv1.weight``, ``.bias``). In ViTs LayerScale is folded into the linear layer before it,
and the position of the class token into the token.
"""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from delf_engine.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Architecture:
    """What a ResNet trunk is."""

    constructor: str  # torchvision's
    channels: int  # of the output
    stride: int = 16  # of the output, in pixels of the input
    last_layer: Literal[3, 4] = 3  # torchvision's layer it is cut after: 3 is conv4, 4 is conv5
    # ResNet v1 as first published: the stride of a stage is on its first 1x1, not on the 3x3.
    stride_on_first: bool = False
    # Of the two strided layers before the first stage, for even sizes: ``torch`` pads both ends alike; ``slim``
    # pads the pooling as TensorFlow's SAME; ``keras`` pads the convolution so, and the pooling not.
    padding: Literal["torch", "slim", "keras"] = "torch"


@dataclass(frozen=True)
class VitArchitecture:
    """What a ViT trunk is."""

    channels: int  # of its tokens
    # Of the transformer.
    depth: int
    heads: int
    stride: int  # side of a patch in pixels
    grid: int  # side of the grid of learned positions, in patches
    registers: int = 0  # tokens beside the class token that belong to no patch


#: Trunks by name. Those of slim and keras are the ones of the published DELF and DELG; ``_s32`` drops every
#: second cell of conv4, as these do unless they were trained without. ``vit`` are torchvision's, of 224 pixels.
ARCHITECTURES: dict[str, Architecture | VitArchitecture] = {
    "resnet18": Architecture("resnet18", 256),
    "resnet18_conv5": Architecture("resnet18", 512, stride=32, last_layer=4),
    "resnet34": Architecture("resnet34", 256),
    "resnet50": Architecture("resnet50", 1024),
    "resnet50_v1": Architecture("resnet50", 1024, stride_on_first=True),
    "resnet50_slim": Architecture("resnet50", 1024, stride_on_first=True, padding="slim"),
    "resnet50_slim_s32": Architecture("resnet50", 1024, 32, stride_on_first=True, padding="slim"),
    "resnet50_keras": Architecture("resnet50", 1024, stride_on_first=True, padding="keras"),
    "resnet50_keras_s32": Architecture("resnet50", 1024, 32, stride_on_first=True, padding="keras"),
    "resnet101": Architecture("resnet101", 1024),
    "resnet101_slim": Architecture("resnet101", 1024, stride_on_first=True, padding="slim"),
    "resnet101_slim_s32": Architecture("resnet101", 1024, 32, stride_on_first=True, padding="slim"),
    "vit_b_16": VitArchitecture(768, 12, 12, stride=16, grid=14),
    "vit_b_32": VitArchitecture(768, 12, 12, stride=32, grid=7),
    "vit_l_16": VitArchitecture(1024, 24, 16, stride=16, grid=14),
    "dinov2_s_14": VitArchitecture(384, 12, 6, stride=14, grid=37),
    "dinov2_b_14": VitArchitecture(768, 12, 12, stride=14, grid=37),
    "dinov2_l_14": VitArchitecture(1024, 24, 16, stride=14, grid=37),
    "dinov2_s_14_reg": VitArchitecture(384, 12, 6, stride=14, grid=37, registers=4),
    "dinov2_b_14_reg": VitArchitecture(768, 12, 12, stride=14, grid=37, registers=4),
    "dinov2_l_14_reg": VitArchitecture(1024, 24, 16, stride=14, grid=37, registers=4),
}


class SamePad(nn.Module):
    """TensorFlow's SAME padding of a layer of stride 2: zeros, the odd one at the bottom and right."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Pad (B, C, H, W)."""
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max(2 * ((size + 1) // 2 - 1) + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)


class Trunk(nn.Module, ABC):
    """Maps images to cells in two parts, so that training can cache what it keeps frozen.

    The centre of cell j is at ``offset + stride j`` pixels of the input; `channels` are those of the output.
    """

    def __init__(self, architecture: str, kind: Architecture | VitArchitecture, offset: float = 0.0) -> None:
        super().__init__()
        self.architecture, self.channels, self.stride, self.offset = (
            architecture,
            kind.channels,
            kind.stride,
            offset,
        )

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to what `last` takes, (B, C', h', w')."""

    @abstractmethod
    def last(self, maps: Tensor) -> Tensor:
        """Map what `stem` gives to the output, (B, C, H / stride, W / stride)."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, C, H / stride, W / stride), both sides rounded up.

        With ``keras`` padding the sides may be one cell shorter.
        """
        return self.last(self.stem(images))


class ResNetTrunk(Trunk):
    """ResNet up to conv4 (layer3; conv5, layer4, in some), batch norm folded; `stem` is up to conv3 (layer2)."""

    def __init__(self, architecture: str, kind: Architecture) -> None:
        super().__init__(architecture, kind)
        self.step = kind.stride // (8 * 2 ** (kind.last_layer - 2))  # 2: every second cell is kept
        net = getattr(torchvision.models, kind.constructor)(weights=None).eval()
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.layer4 = net.layer4 if kind.last_layer == 4 else nn.Identity()
        self.pad: nn.Module = nn.Identity()
        if kind.padding == "slim":  # zeros do for the pooling too: what comes out of a ReLU is not below them
            self.maxpool = nn.Sequential(SamePad(3), nn.MaxPool2d(3, 2))
        elif kind.padding == "keras":
            self.conv1.padding = (0, 0)
            self.pad, self.maxpool = SamePad(7), nn.MaxPool2d(3, 2)
        if kind.stride_on_first:
            for stage in (self.layer2, self.layer3):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to conv3, (B, C', H / 8, W / 8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.pad(images)))))
        return self.layer2(self.layer1(x))

    def last(self, maps: Tensor) -> Tensor:
        """Map conv3 to the output, (B, C, H / stride, W / stride)."""
        x = self.layer4(self.layer3(maps))
        return x[:, :, :: self.step, :: self.step] if self.step > 1 else x


class VitBlock(nn.Module):
    """A layer of a ViT: attention, then an MLP, each of normed tokens and added to them."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) tokens to (B, N, C)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        # Not torch's MultiheadAttention, which on a CPU holds all N x N weights.
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VitTrunk(Trunk):
    """Patch tokens of a ViT's last block after its norm; `stem` is the patches with their positions.

    Images are padded to whole patches at the right and the bottom, by their last column and row. Positions are
    interpolated (bicubic, antialiased) as timm and DINOv2 with registers do. The published code of DINOv2 without
    registers does not antialias, which differs a little where the map is not as large as `grid`.
    """

    def __init__(self, architecture: str, kind: VitArchitecture) -> None:
        super().__init__(architecture, kind, (kind.stride - 1) / 2)
        self.patches = nn.Conv2d(3, kind.channels, kind.stride, kind.stride)
        self.tokens = nn.Parameter(0.02 * torch.randn(1, 1 + kind.registers, kind.channels))
        self.positions = nn.Parameter(0.02 * torch.randn(1, kind.channels, kind.grid, kind.grid))
        self.blocks = nn.Sequential(*(VitBlock(kind.channels, kind.heads) for _ in range(kind.depth)))
        self.norm = nn.LayerNorm(kind.channels, eps=1e-6)

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to patches with positions, (B, C, H / stride, W / stride)."""
        height, width = images.shape[2:]
        x = self.patches(F.pad(images, (0, -width % self.stride, 0, -height % self.stride), mode="replicate"))
        positions = F.interpolate(self.positions.float(), x.shape[2:], mode="bicubic", antialias=True)
        return x + positions.to(x.dtype)

    def last(self, maps: Tensor) -> Tensor:
        """Map patches to tokens, of the same shape."""
        tokens = torch.cat([self.tokens.expand(len(maps), -1, -1), maps.flatten(2).mT], 1)
        return self.norm(self.blocks(tokens))[:, self.tokens.shape[1] :].mT.unflatten(2, maps.shape[2:])


def build_trunk(architecture: str, state: Mapping[str, Tensor] | None = None) -> Trunk:
    """Build a trunk of one of `ARCHITECTURES` from a state with or without batch norm; None: random weights.

    ResNets have torchvision's names; layers behind the cut are passed over. With batch norm it is folded here,
    without (convolutions with biases) it is taken as it is. ViTs have `VitTrunk`'s names. A `ConfigError` if the
    architecture is unknown; a `CheckpointError` if the state does not fit the architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown trunk {architecture!r}; known trunks: {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[architecture]
    if isinstance(kind, VitArchitecture):
        vit = VitTrunk(architecture, kind)
        if state is not None:
            _load(vit, state)
        return vit.eval()
    trunk = ResNetTrunk(architecture, kind)
    folded = state is not None and not any("running_var" in key for key in state)
    if state is not None and not folded:
        _load(trunk, state)
    _fold_batch_norm(trunk)
    if state is not None and folded:
        _load(trunk, state)
    return trunk.eval()


def _load(trunk: Trunk, state: Mapping[str, Tensor]) -> None:
    wanted = trunk.state_dict()
    try:
        trunk.load_state_dict({key: value for key, value in state.items() if key in wanted})
    except RuntimeError as error:
        first = textwrap.shorten(str(error), 250, placeholder=" ...")  # of a line for each of its layers
        raise CheckpointError(f"weights do not fit a {trunk.architecture} trunk: {first}") from error


@torch.no_grad()
def _fold_batch_norm(module: nn.Module) -> None:
    """Replace each pair of convolution and batch norm, found by torchvision's naming, by one convolution."""
    fused: Any = fuse_conv_bn_eval  # whose types are narrower than what modules() gives
    parent: Any
    for parent in module.modules():
        if isinstance(parent, nn.Sequential) and len(parent) == 2 and isinstance(parent[1], nn.BatchNorm2d):
            parent[0], parent[1] = fused(parent[0].eval(), parent[1].eval()), nn.Identity()
            continue
        for name, conv in list(parent.named_children()):
            if name.startswith("conv"):
                norm = getattr(parent, f"bn{name[4:]}")
                setattr(parent, name, fused(conv.eval(), norm.eval()))
                setattr(parent, f"bn{name[4:]}", nn.Identity())
