"""Teachers of this package's own kind: a checkpoint, or a bare trunk with a PCA fitted on the fly."""

from __future__ import annotations

import torch
from torch import Tensor

from delf_engine.errors import ConfigError
from delf_engine.model.backbones import ARCHITECTURES
from delf_engine.model.checkpoint import load_checkpoint
from delf_engine.model.network import DelfNetwork
from delf_engine.training.batches import TeacherContext
from delf_engine.training.projection import PcaStage, fit_projection
from delf_engine.training.weights import load_trunk

__all__ = ["CheckpointTeacher", "TrunkTeacher"]

_PHOTOGRAPHS = 300  # that the PCA of a bare trunk is fitted on
_DIM = 128


class _NetworkTeacher:
    """Unit descriptors of all cells by a network's trunk and projection."""

    def __init__(self, network: DelfNetwork, context: TeacherContext) -> None:
        if network.stride != 16:
            raise ConfigError(f"a teacher needs cells of stride 16, this one's are {network.stride} pixels apart")
        self.network = network.to(context.device).requires_grad_(False).eval()
        self.context = context
        self.channels = network.dim

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, H, W, 3) uint8 RGB to (N, D, h, w) unit descriptors."""
        dtype = self.context.dtype
        with torch.no_grad():
            with torch.autocast(self.context.device.type, dtype, enabled=dtype != torch.float32):
                features = self.network.trunk(self.network.normalise(images.to(self.context.device)))
            maps = self.network.heads(features.float())[0]
            flat = maps.flatten(2).transpose(1, 2)
            descriptors = self.network.projection(flat.reshape(-1, flat.shape[2]))
            return descriptors.unflatten(0, flat.shape[:2]).transpose(1, 2).unflatten(2, maps.shape[2:])


class CheckpointTeacher(_NetworkTeacher):
    """A checkpoint by name or path: its own descriptors.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    ConfigError
        If its cells have another stride than 16.
    """

    def __init__(self, argument: str, context: TeacherContext) -> None:
        super().__init__(load_checkpoint(argument)[0], context)


class TrunkTeacher(_NetworkTeacher):
    """``ARCHITECTURE:FILE``: L2-normalised conv4 of a trunk, reduced by PCA to 128 dimensions at most.

    The PCA is fitted on up to 300 of the training photographs, on the cells of largest norm.

    Raises
    ------
    CheckpointError
        If the weights cannot be read or do not fit.
    ConfigError
        If there is no such architecture.
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
