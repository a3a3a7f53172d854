"""Weights to start from: a file, one of our own checkpoints, or what torchvision offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.interchange.published.torch_files import read_torch_file
from delf_engine.model.backbones import ARCHITECTURES, Trunk, VitArchitecture, build_trunk
from delf_engine.model.checkpoint import CheckpointInfo, load_checkpoint


def load_trunk(architecture: str, path: str | os.PathLike[str] | None, *, trained: bool = True) -> Trunk:
    """Build a trunk from weights: a file (`read_state`), or a checkpoint of this package by name or path.

    None as `path`: torchvision's ImageNet weights, or random ones where they need not be `trained`, as for a plan.
    A `CheckpointError` if the weights are missing, damaged, of another architecture, or made for other
    preprocessing; a `ConfigError` if the architecture is unknown, or a ViT: their cells do not lie where training
    looks for them.
    """
    if isinstance(ARCHITECTURES.get(architecture), VitArchitecture):
        raise ConfigError(f"{architecture} is not trained here, only ResNets are; import its weights as they are")
    state: dict[str, Tensor] | None
    if path is None:
        _offered(architecture)
        state = pretrained_state(architecture) if trained else None
    elif _is_checkpoint(path):
        state = _checkpoint_state(architecture, path)
    else:
        state = read_state(path)
    try:
        return build_trunk(architecture, state)
    except CheckpointError as error:
        raise CheckpointError(f"{path or 'torchvision'}: {error}") from error


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read tensors by name from safetensors, or from a state dict of torch (``.pth``, ``.pt``; no code is run).

    A `CheckpointError` if the file is missing or damaged, or holds something else than tensors.
    """
    state = read_torch_file(path)
    if isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{os.fspath(path)}: holds no state dict: tensors by name were expected")
    return state


def pretrained_state(architecture: str) -> dict[str, Tensor]:
    """Return torchvision's first ImageNet weights (IMAGENET1K_V1), from its cache or downloaded.

    A `CheckpointError` if torchvision has none for this architecture, or they can be neither found nor downloaded.
    """
    weights = _offered(architecture)
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"torchvision's weights of {architecture} are not in {folder} and cannot be downloaded ({error}): "
            f"pass --trunk FILE, or put {weights.url} there"
        ) from error


def _offered(architecture: str) -> Any:
    """Return what torchvision offers for an architecture, without loading it; errors as of `pretrained_state`."""
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"unknown trunk {architecture!r}; known trunks: {', '.join(ARCHITECTURES)}")
    kind = ARCHITECTURES[architecture]
    if isinstance(kind, VitArchitecture) or kind.stride_on_first or kind.padding != "torch":
        raise CheckpointError(f"torchvision has no weights for {architecture}: pass --trunk FILE")
    from torchvision.models import get_model_weights  # imports torch's compiler, which takes seconds

    return get_model_weights(architecture.partition("_")[0]).IMAGENET1K_V1


def _is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Tell a checkpoint of this package from a file of bare weights."""
    if "://" in os.fspath(path):  # whoever reads checkpoints says that they are not downloaded
        return True
    if not Path(path).is_file():  # a name; what looks like a file is missed as one
        return Path(path).suffix not in (".safetensors", ".pth", ".pt") and Path(path).name == os.fspath(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return any(key.startswith("trunk.") for key in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def _checkpoint_state(architecture: str, name_or_path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the trunk's tensors of a checkpoint, float32."""
    network, info = load_checkpoint(name_or_path)
    usual = CheckpointInfo.model_fields
    if info.architecture != architecture:
        raise CheckpointError(
            f"{name_or_path}: its trunk is a {info.architecture}, the recipe wants a {architecture}: change "
            "architecture in the recipe, or start from another checkpoint"
        )
    if (info.mean, info.std) != (usual["mean"].default, usual["std"].default):
        raise CheckpointError(
            f"{name_or_path}: made for colours with mean {info.mean} and deviation {info.std}; training keeps to "
            "ImageNet's, start from another checkpoint"
        )
    return dict(network.trunk.state_dict())
