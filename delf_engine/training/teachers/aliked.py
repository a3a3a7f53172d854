"""Teacher ``aliked:FILE``: ALIKED-N16 (Zhao et al., IEEE TIM 2023) through kornia, an optional extra."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.training.batches import TeacherContext
from delf_engine.training.weights import read_state

__all__ = ["AlikedTeacher"]

_STRIDE = 16


class AlikedTeacher:
    """Its descriptor head, applied at the centres of the cells instead of at keypoints.

    Parameters
    ----------
    argument : str
        Weights of aliked-n16, safetensors or a state dict of torch.
    context : TeacherContext

    Raises
    ------
    ConfigError
        If kornia is not installed.
    CheckpointError
        If the weights cannot be read or do not fit.
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
