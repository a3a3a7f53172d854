"""Weights to start from: a file, or what torchvision offers."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model.backbones import ARCHITECTURES, Trunk, build_trunk

__all__ = ["load_trunk", "pretrained_state", "read_state"]


def load_trunk(architecture: str, path: str | os.PathLike[str] | None) -> Trunk:
    """Build a trunk from a file, or with `path` None from torchvision's ImageNet weights.

    Raises
    ------
    CheckpointError
        If the weights are missing, damaged, or of another architecture.
    ConfigError
        If the architecture is unknown.
    """
    state = pretrained_state(architecture) if path is None else read_state(path)
    try:
        return build_trunk(architecture, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path or 'torchvision'}: {error}") from error


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read tensors by name from safetensors, or from a state dict of torch (``.pth``, ``.pt``; no code is run).

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, or holds something else than tensors.
    """
    name = os.fspath(path)
    if Path(path).suffix not in (".pth", ".pt"):
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name}: not a readable safetensors file of a trunk: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise CheckpointError(f"{name}: not a readable state dict of torch: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{name}: holds no state dict: tensors by name were expected")
    return state


def pretrained_state(architecture: str) -> dict[str, Tensor]:
    """Return torchvision's first ImageNet weights (IMAGENET1K_V1), from its cache or downloaded.

    Raises
    ------
    CheckpointError
        If torchvision has none for this architecture, or they can be neither found nor downloaded.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown trunk {architecture!r}; known trunks: {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[architecture]
    if kind.stride_on_first or kind.padding != "torch":
        raise CheckpointError(f"torchvision has no weights for {architecture}: pass --trunk FILE")
    weights = torchvision.models.get_model_weights(kind.constructor).IMAGENET1K_V1
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"torchvision's weights of {architecture} are not in {folder} and cannot be downloaded ({error}): "
            f"pass --trunk FILE, or put {weights.url} there"
        ) from error
