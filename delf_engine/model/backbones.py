"""ResNet trunks cut at conv4 or conv5, with batch norm folded into the convolutions.

Folded from the start, for training too: tuning a last stage with frozen statistics is the same function, and
there is one layout of weights instead of two. Names are torchvision's (``layer3.0.conv1.weight``, ``.bias``).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from delf_engine.errors import CheckpointError, ConfigError

__all__ = ["ARCHITECTURES", "Architecture", "Trunk", "build_trunk"]


@dataclass(frozen=True)
class Architecture:
    """What a trunk is.

    Attributes
    ----------
    constructor : str
        torchvision's.
    channels : int
        Of the output.
    stride : int
        Of the output, in pixels of the input.
    last_layer : int
        torchvision's layer it is cut after: 3 is conv4, 4 is conv5.
    stride_on_first : bool
        ResNet v1 as first published: the stride of a stage is on its first 1x1, not on the 3x3.
    padding : str
        Of the two strided layers before the first stage, for even sizes: ``torch`` pads both ends alike;
        ``slim`` pads the pooling as TensorFlow's SAME; ``keras`` pads the convolution so, and the pooling not.
    """

    constructor: str
    channels: int
    stride: int = 16
    last_layer: Literal[3, 4] = 3
    stride_on_first: bool = False
    padding: Literal["torch", "slim", "keras"] = "torch"


#: Trunks by name. Those of slim and keras are the ones of the published DELF and DELG; ``_s32`` drops every
#: second cell of conv4, as these do unless they were trained without.
ARCHITECTURES = {
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


class Trunk(nn.Module):
    """ResNet up to conv4 (layer3; conv5, layer4, in some), batch norm folded.

    `stem` runs up to conv3 (layer2) and `last` is what follows, so that training can cache what it keeps frozen.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"unknown trunk {architecture!r}; known trunks: {known}")
        self.architecture = architecture
        kind = ARCHITECTURES[architecture]
        self.channels, self.stride = kind.channels, kind.stride
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

    def last(self, conv3: Tensor) -> Tensor:
        """Map conv3 to the output, (B, C, H / stride, W / stride)."""
        x = self.layer4(self.layer3(conv3))
        return x[:, :, :: self.step, :: self.step] if self.step > 1 else x

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, C, H / stride, W / stride), both sides rounded up.

        With ``keras`` padding the sides may be one cell shorter.
        """
        return self.last(self.stem(images))


def build_trunk(architecture: str, state: Mapping[str, Tensor] | None = None) -> Trunk:
    """Build a trunk, folded, from a state with or without batch norm.

    Parameters
    ----------
    architecture : str
        A name of `ARCHITECTURES`.
    state : mapping or None
        torchvision names; layers behind the cut are passed over. With batch norm it is folded here, without
        (convolutions with biases) it is taken as it is. None: random weights.

    Raises
    ------
    ConfigError
        If the architecture is unknown.
    CheckpointError
        If the state does not fit the architecture.
    """
    trunk = Trunk(architecture)
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
