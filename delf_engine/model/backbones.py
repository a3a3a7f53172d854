"""ResNet trunks cut at conv4, with batch norm folded into the convolutions.

Folded from the start, for training too: tuning a last stage with frozen statistics is the same function, and
there is one layout of weights instead of two. Names are torchvision's (``layer3.0.conv1.weight``, ``.bias``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from delf_engine.errors import CheckpointError, ConfigError

__all__ = ["ARCHITECTURES", "Architecture", "Trunk", "build_trunk"]


@dataclass(frozen=True)
class Architecture:
    """What a trunk is: torchvision's constructor, output channels, and where stages take their stride."""

    constructor: str
    channels: int
    stride_on_first: bool = False  # ResNet v1: the stride of a stage is on its first 1x1, not on the 3x3


#: Trunks by name. All are cut after layer3 (conv4), stride 16.
ARCHITECTURES = {
    "resnet18": Architecture("resnet18", 256),
    "resnet34": Architecture("resnet34", 256),
    "resnet50": Architecture("resnet50", 1024),
    "resnet50_v1": Architecture("resnet50", 1024, stride_on_first=True),
    "resnet101": Architecture("resnet101", 1024),
}


class Trunk(nn.Module):
    """ResNet up to conv4 (layer3), batch norm folded.

    `stem` runs up to conv3 (layer2) and `last` is conv4, so that training can cache what it keeps frozen.
    """

    stride = 16

    def __init__(self, architecture: str) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"unknown trunk {architecture!r}; known trunks: {known}")
        self.architecture = architecture
        kind = ARCHITECTURES[architecture]
        self.channels = kind.channels
        net = getattr(torchvision.models, kind.constructor)(weights=None).eval()
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        if kind.stride_on_first:
            for stage in (self.layer2, self.layer3):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)

    def stem(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to conv3, (B, C', H / 8, W / 8)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer2(self.layer1(x))

    def last(self, conv3: Tensor) -> Tensor:
        """Map conv3 to conv4, (B, C, H / 16, W / 16)."""
        return self.layer3(conv3)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to conv4, (B, C, H / 16, W / 16), both sides rounded up."""
        return self.last(self.stem(images))


def build_trunk(architecture: str, state: Mapping[str, Tensor] | None = None) -> Trunk:
    """Build a trunk, folded, from a state with or without batch norm.

    Parameters
    ----------
    architecture : str
        A name of `ARCHITECTURES`.
    state : mapping or None
        torchvision names; layers behind conv4 are passed over. With batch norm it is folded here, without
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
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(state) - optional)
    if missing:
        raise CheckpointError(
            f"weights do not fit a {trunk.architecture} trunk: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            raise CheckpointError(
                f"weights do not fit a {trunk.architecture} trunk: {key} has shape {tuple(state[key].shape)}, "
                f"{tuple(value.shape)} is needed"
            )
    trunk.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _fold_batch_norm(module: nn.Module) -> None:
    """Replace each pair of convolution and batch norm, found by torchvision's naming, by one convolution."""
    for parent in module.modules():
        if isinstance(parent, nn.Sequential) and len(parent) == 2 and isinstance(parent[1], nn.BatchNorm2d):
            parent[0], parent[1] = _fused(parent[0], parent[1]), nn.Identity()
            continue
        for name, child in list(parent.named_children()):
            if name.startswith("conv"):
                norm = getattr(parent, f"bn{name[4:]}")
                setattr(parent, name, _fused(child, norm))
                setattr(parent, f"bn{name[4:]}", nn.Identity())


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        return fuse_conv_bn_eval(conv.eval(), norm.eval())
