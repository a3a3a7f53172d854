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
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from delf_engine.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Architecture:
    """What a ResNet trunk is."""

    blocks: tuple[int, int, int, int]  # of the four stages
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


_18, _50, _101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)

#: Trunks by name. Those of slim and keras are the ones of the published DELF and DELG; ``_s32`` drops every
#: second cell of conv4, as these do unless they were trained without. ``vit`` are torchvision's, of 224 pixels.
ARCHITECTURES: dict[str, Architecture | VitArchitecture] = {
    "resnet18": Architecture(_18, 256),
    "resnet18_conv5": Architecture(_18, 512, stride=32, last_layer=4),
    "resnet34": Architecture(_50, 256),
    "resnet50": Architecture(_50, 1024),
    "resnet50_v1": Architecture(_50, 1024, stride_on_first=True),
    "resnet50_slim": Architecture(_50, 1024, stride_on_first=True, padding="slim"),
    "resnet50_slim_s32": Architecture(_50, 1024, 32, stride_on_first=True, padding="slim"),
    "resnet50_keras": Architecture(_50, 1024, stride_on_first=True, padding="keras"),
    "resnet50_keras_s32": Architecture(_50, 1024, 32, stride_on_first=True, padding="keras"),
    "resnet101": Architecture(_101, 1024),
    "resnet101_slim": Architecture(_101, 1024, stride_on_first=True, padding="slim"),
    "resnet101_slim_s32": Architecture(_101, 1024, 32, stride_on_first=True, padding="slim"),
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


class ResNetBlock(nn.Module):
    """Residual block of two 3x3 convolutions, or of 1x1, 3x3 and 1x1 around a quarter of the channels."""

    def __init__(self, inputs: int, outputs: int, strides: tuple[int, int], *, bottleneck: bool) -> None:
        super().__init__()
        width, (first, second) = outputs // 4 if bottleneck else outputs, strides
        self.conv1 = nn.Conv2d(inputs, width, 1 if bottleneck else 3, first, 0 if bottleneck else 1)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1)
        self.conv3 = nn.Conv2d(width, outputs, 1) if bottleneck else None
        self.relu = nn.ReLU(inplace=True)  # a module: its output is rounded where bfloat16 is emulated
        shortcut = [nn.Conv2d(inputs, outputs, 1, max(strides))] if (inputs, 1) != (outputs, max(strides)) else []
        self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        y = self.conv2(self.relu(self.conv1(x)))
        if self.conv3 is not None:
            y = self.conv3(self.relu(y))
        y += self.downsample(x)
        return self.relu(y)


class ResNetTrunk(Trunk):
    """ResNet up to conv4 (layer3; conv5, layer4, in some), batch norm folded; `stem` is up to conv3 (layer2).

    Not torchvision's, which takes seconds to import: more than a short command or a worker has to do.
    """

    def __init__(self, architecture: str, kind: Architecture) -> None:
        super().__init__(architecture, kind)
        self.step = kind.stride // (8 * 2 ** (kind.last_layer - 2))  # 2: every second cell is kept
        self.pad: nn.Module = SamePad(7) if kind.padding == "keras" else nn.Identity()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 0 if kind.padding == "keras" else 3)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1 if kind.padding == "torch" else 0)
        if kind.padding == "slim":  # zeros do for the pooling too: what comes out of a ReLU is not below them
            self.maxpool = nn.Sequential(SamePad(3), self.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = (_stage(kind, number) for number in range(1, 5))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to conv3, (B, C', H / 8, W / 8)."""
        x = self.maxpool(self.relu(self.conv1(self.pad(images))))
        return self.layer2(self.layer1(x))

    def last(self, maps: Tensor) -> Tensor:
        """Map conv3 to the output, (B, C, H / stride, W / stride)."""
        x = self.layer4(self.layer3(maps))
        return x[:, :, :: self.step, :: self.step] if self.step > 1 else x


def _stage(kind: Architecture, number: int) -> nn.Sequential:
    """Build stage 1 to 4 of a ResNet; empty behind the cut."""
    if number > kind.last_layer:
        return nn.Sequential()
    widths = [kind.channels >> (kind.last_layer - n) for n in range(1, number + 1)]
    bottleneck, blocks = widths[0] > 64, nn.Sequential()
    for block in range(kind.blocks[number - 1]):
        inputs = widths[-1] if block else [64, *widths][number - 1]
        stride = 2 if number > 1 and block == 0 else 1
        strides = (1, stride) if bottleneck and not kind.stride_on_first else (stride, 1)
        blocks.append(ResNetBlock(inputs, widths[-1], strides, bottleneck=bottleneck))
    return blocks


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
        return _loaded(VitTrunk(architecture, kind), state)
    return _loaded(ResNetTrunk(architecture, kind), state)


def _loaded(trunk: Trunk, state: Mapping[str, Tensor] | None) -> Trunk:
    if state is None:
        return trunk.eval()
    wanted = trunk.state_dict().keys()
    try:
        found = {key: value for key, value in state.items() if key in wanted}
        for key in state:  # of each batch norm, which torchvision's naming finds
            norm = key.removesuffix(".running_var")
            conv = f"{norm[:-1]}0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")
            if norm != key and f"{conv}.weight" in wanted:
                parts = (f"{conv}.weight", f"{norm}.running_mean", key, f"{norm}.weight", f"{norm}.bias")
                weight, mean, var, scale, shift = (state[part].float() for part in parts)
                fused = fuse_conv_bn_weights(weight, None, mean, var, 1e-5, scale, shift)
                found[f"{conv}.weight"], found[f"{conv}.bias"] = fused
        trunk.load_state_dict(found)
        return trunk.eval()
    except (KeyError, RuntimeError) as error:
        first = textwrap.shorten(str(error), 250, placeholder=" ...")  # of a line for each of its layers
        raise CheckpointError(f"weights do not fit a {trunk.architecture} trunk: {first}") from error
