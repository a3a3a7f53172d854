"""Checkpoints: safetensors files that say what they are, and are checked against their own hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from delf_engine import __version__
from delf_engine.config import Config, parse_config
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model.names import checkpoint_path
from delf_engine.support.files import replacing

__all__ = [
    "CheckpointInfo",
    "load_checkpoint",
    "read_checkpoint_info",
    "read_tensors",
    "save_checkpoint",
    "tensors_sha256",
]

_KEY = "delf_engine"
_VERSION = 2

Rgb = tuple[float, float, float]
RgbScale = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class CheckpointInfo(Config):
    """What a checkpoint says of itself.

    Attributes
    ----------
    format_version : int
    name : str
    architecture : str
        Trunk, a name of `delf_engine.model.backbones.ARCHITECTURES`.
    dim : int
        Descriptor dimension.
    attention_hidden : int
        Of the attention head; without one, 1.
    attention_norm_weighted : bool
    profile : str
        Profile it is meant for.
    preprocessing : str
        In words.
    data, recipe, licence : str
        What it was trained on and how, in words.
    seed : int
    figures : dict
        Measured with this checkpoint, by name.
    sha256 : str
        Of all tensors: names, types, shapes and bytes.
    mean, std : tuple of 3 float
        Of RGB in [0, 1]: the network sees (pixel / 255 - mean) / std. ImageNet's unless stated.
    attention : "head" or "norm"
        Where scores come from: the attention head, or the L2 norm of the feature vector alone (HOW).
    attention_bottleneck : int
        Channels of the autoencoder between features and attention head (DELG); 0: none.
    smoothing : int
        Side, in cells, of the window over which features are averaged before projection (HOW); 1: none.
    projection_unit_input : bool
        Features are L2-normalised before projection.
    attention_threshold : float or None
        Score below which a feature is not worth keeping; None: no limit is known.
    decision_inliers : int or None
        Inliers from which on two photographs were found to show the same place; None: never measured.
    ranking : str or None
        Ranking rule that was best for it; None: never compared.
    package_version : str or None
        Of the package that wrote it.
    training_data_sha256 : str or None
        Of the list of photographs it was trained on.
    codebook_sha256 : str or None
        `Codebook.hash` of the visual words made for it.
    """

    format_version: int = _VERSION
    name: str
    architecture: str
    dim: int = Field(ge=1)
    attention_hidden: int = Field(ge=1)
    attention_norm_weighted: bool
    profile: str
    preprocessing: str
    data: str
    recipe: str
    licence: str
    seed: int
    figures: dict[str, float] = Field(default_factory=dict)
    sha256: str = ""
    mean: Rgb = (0.485, 0.456, 0.406)
    std: RgbScale = (0.229, 0.224, 0.225)
    attention: Literal["head", "norm"] = "head"
    attention_bottleneck: int = Field(default=0, ge=0)
    smoothing: int = Field(default=1, ge=1)
    projection_unit_input: bool = True
    attention_threshold: float | None = None
    decision_inliers: int | None = Field(default=None, ge=1)
    ranking: str | None = None
    package_version: str | None = None
    training_data_sha256: str | None = None
    codebook_sha256: str | None = None

    @property
    def identity(self) -> str:
        """Name and hash, as stores and indexes keep it to know their model again."""
        return f"{self.name}@{self.sha256[:16]}"


def read_checkpoint_info(name_or_path: str | os.PathLike[str]) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without its weights and without torch.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, not a checkpoint of this package, or of another format version.
    """
    return _open(checkpoint_path(name_or_path))[0]


def read_tensors(
    name_or_path: str | os.PathLike[str],
) -> tuple[CheckpointInfo, dict[str, npt.NDArray[Any]]]:
    """Read a checkpoint as arrays, in the precision of the file and without torch; the hash is not checked.

    Raises
    ------
    CheckpointError
        As `read_checkpoint_info`.
    """
    return _open(checkpoint_path(name_or_path), weights=True)


def load_checkpoint(name_or_path: str | os.PathLike[str]) -> tuple[Any, CheckpointInfo]:
    """Load a network, float32 and in evaluation mode, from a name or a path.

    Returns
    -------
    network : DelfNetwork
    info : CheckpointInfo

    Raises
    ------
    CheckpointError
        As `read_checkpoint_info`, or if the weights do not have the hash that the file states, or do
        not fit the architecture.
    """
    import torch

    from delf_engine.model.network import DelfNetwork

    path = checkpoint_path(name_or_path)
    info, tensors = _open(path, weights=True)
    _check_hash(path, info, tensors)
    try:
        network = DelfNetwork(
            info.architecture,
            info.dim,
            hidden=info.attention_hidden,
            norm_weighted=info.attention_norm_weighted,
            bottleneck=info.attention_bottleneck,
            attention=info.attention,
            smoothing=info.smoothing,
            unit_input=info.projection_unit_input,
            mean=info.mean,
            std=info.std,
        )
        network.load_state_dict(
            {key: torch.from_numpy(value.astype(np.float32)) for key, value in tensors.items()}
        )
    except (ConfigError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return network.eval().requires_grad_(False), info


def save_checkpoint(
    path: str | os.PathLike[str], state: Mapping[str, npt.NDArray[Any]], info: CheckpointInfo, *, half: bool = True
) -> CheckpointInfo:
    """Write a checkpoint in half precision (default) or as it is; replaces the file at once or not at all.

    Returns
    -------
    CheckpointInfo
        `info` with the hash of what was written and the version of this package.

    Raises
    ------
    CheckpointError
        If a weight is NaN, or too large for half precision.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        tensors = {k: np.ascontiguousarray(v.astype(np.float16 if half else v.dtype)) for k, v in state.items()}
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"{key} is not finite{' in half precision' if half else ''}; nothing was written"
            )
    return _write(Path(path), tensors, info)


def _write(path: Path, tensors: Mapping[str, npt.NDArray[Any]], info: CheckpointInfo) -> CheckpointInfo:
    from safetensors.numpy import save

    stamps = {"sha256": tensors_sha256(tensors), "format_version": _VERSION, "package_version": __version__}
    stamped = info.model_copy(update=stamps)
    data = save(dict(tensors), metadata={_KEY: stamped.model_dump_json()})
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return stamped


def _check_hash(path: Path, info: CheckpointInfo, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    found = tensors_sha256(tensors)
    if found != info.sha256:
        raise CheckpointError(
            f"{path}: damaged: its weights have SHA-256 {found[:16]}..., it states {info.sha256[:16]}...; "
            "get the file again"
        )


def _open(path: Path, *, weights: bool = False) -> tuple[CheckpointInfo, dict[str, npt.NDArray[Any]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()} if weights else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    if _KEY not in metadata:
        raise CheckpointError(f"{path}: safetensors, but not a checkpoint of this package (no {_KEY!r} metadata)")
    try:
        values = json.loads(metadata[_KEY])
        found = values.get("format_version")
        if found != _VERSION:
            raise CheckpointError(f"{path}: checkpoint format version {found}, this version reads {_VERSION}")
        return parse_config(CheckpointInfo, values, where=str(path)), tensors
    except (json.JSONDecodeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged metadata: {error}") from error


def tensors_sha256(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of tensors: names in order, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
