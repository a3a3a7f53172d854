"""Teachers to distil from: a checkpoint, a bare trunk with a PCA fitted on the fly, ALIKED-N16."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model.backbones import ARCHITECTURES
from delf_engine.model.checkpoint import load_checkpoint
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import TeacherContext
from delf_engine.training.options import autocast
from delf_engine.training.projection import PcaStage, fit_projection
from delf_engine.training.weights import load_trunk, read_state

_PHOTOGRAPHS = 300  # that the PCA of a bare trunk is fitted on
_DIM = 128


class _NetworkTeacher:
    """Unit descriptors of all cells by a network's trunk and projection."""

    def __init__(self, network: DelfNetwork, context: TeacherContext) -> None:
        if (network.stride, network.offset) != (16, 0):
            raise ConfigError(
                f"a teacher needs a ResNet with cells of stride 16; a {network.trunk.architecture} has them "
                f"{network.stride} pixels apart, from {network.offset}"
            )
        self.network = network.to(context.device).requires_grad_(False).eval()
        self.context = context
        self.channels = network.dim

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, D, h, w) unit descriptors."""
        with torch.no_grad():
            with autocast(self.context.device, self.context.dtype):
                features = self.network.trunk(self.network.normalise(images.to(self.context.device)))
            maps = self.network.heads(features.float())[0]
            flat = maps.flatten(2).transpose(1, 2)
            descriptors = self.network.projection(flat.reshape(-1, flat.shape[2]))
            return descriptors.unflatten(0, flat.shape[:2]).transpose(1, 2).unflatten(2, maps.shape[2:])


class CheckpointTeacher(_NetworkTeacher):
    """A checkpoint by name or path: its own descriptors.

    A `CheckpointError` if it cannot be read; a `ConfigError` if its cells have another stride than 16, or its
    trunk is a ViT.
    """

    def __init__(self, argument: str, context: TeacherContext) -> None:
        super().__init__(load_checkpoint(argument)[0], context)


class TrunkTeacher(_NetworkTeacher):
    """``ARCHITECTURE:FILE``: L2-normalised conv4 of a trunk, reduced by PCA to 128 dimensions at most.

    The PCA is fitted on up to 300 of the training photographs, on the cells of largest norm. A `CheckpointError`
    if the weights cannot be read or do not fit; a `ConfigError` if there is no such architecture.
    """

    def __init__(self, argument: str, context: TeacherContext) -> None:
        architecture, _, file = argument.partition(":")
        if architecture not in ARCHITECTURES or not file:
            raise ConfigError(
                f"teacher trunk:{argument}: say trunk:ARCHITECTURE:FILE; architectures: {', '.join(ARCHITECTURES)}"
            )
        trunk = load_trunk(architecture, file).requires_grad_(False).to(context.device)
        network = DelfNetwork(architecture, min(_DIM, trunk.channels), attention="norm", trunk=trunk)
        stage = PcaStage(kind="pca", cells=200, scales=(0.5, 1.0), photographs=_PHOTOGRAPHS)
        network.projection = fit_projection(
            context.photos,
            network,
            stage,
            device=context.device,
            dtype=context.dtype,
            progress=context.progress,
        )
        super().__init__(network, context)


_STRIDE = 16


class AlikedTeacher:
    """The descriptor head of aliked-n16 at the centres of cells instead of keypoints; weights as of `read_state`.

    A `ConfigError` if kornia is not installed; a `CheckpointError` if the weights cannot be read or do not fit.
    """

    channels = 128

    def __init__(self, argument: str, context: TeacherContext) -> None:
        try:
            from kornia.feature import ALIKED
        except ImportError as error:
            raise ConfigError("teacher aliked needs kornia: pip install 'delf-engine[aliked]'") from error
        if not argument or not Path(argument).is_file():
            raise CheckpointError(f"teacher aliked: there is no file {argument!r}; say aliked:FILE")
        model = ALIKED("aliked-n16")
        try:
            missing = model.load_state_dict(read_state(argument), strict=False).missing_keys
        except RuntimeError as error:
            raise CheckpointError(f"{argument}: does not fit aliked-n16: {error}") from error
        missing = [name for name in missing if not name.startswith("dkd.")]  # a constant grid
        if missing:
            raise CheckpointError(f"{argument}: does not fit aliked-n16: {missing[0]} is missing")
        self.model = model.eval().requires_grad_(False).to(context.device)
        self.device = context.device

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, 128, ceil(H / 16), ceil(W / 16)) unit descriptors."""
        height, width = images.shape[1:3]
        with torch.no_grad():
            pixels = images.to(self.device, torch.float32).permute(0, 3, 1, 2).contiguous() / 255
            features, _ = self.model.extract_dense_map(pixels)
            rows, columns = range(0, height, _STRIDE), range(0, width, _STRIDE)
            y, x = torch.meshgrid(
                torch.tensor([2 * r / max(height - 1, 1) - 1 for r in rows]),
                torch.tensor([2 * c / max(width - 1, 1) - 1 for c in columns]),
                indexing="ij",
            )
            centres = torch.stack([x.flatten(), y.flatten()], 1).to(self.device)
            descriptors, _ = self.model.desc_head(features, [centres] * len(images))
            return torch.stack(descriptors).transpose(1, 2).unflatten(2, (len(rows), len(columns)))
