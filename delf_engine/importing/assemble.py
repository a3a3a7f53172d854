"""Parts to a checkpoint of this package."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.importing.parts import Parts, Reduction
from delf_engine.model import CheckpointInfo, save_checkpoint

__all__ = ["ImportedModel", "assemble", "files_hash"]


@dataclass(frozen=True)
class ImportedModel:
    """A network's weights by name, and what its checkpoint says of it."""

    state: Mapping[str, npt.NDArray[np.float32]]
    info: CheckpointInfo

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> CheckpointInfo:
        """Write the checkpoint; see `delf_engine.model.save_checkpoint`."""
        return save_checkpoint(path, self.state, self.info, half=half)


def assemble(
    parts: Parts,
    *,
    name: str,
    pca: Reduction | None = None,
    profile: str | None = None,
    threshold: float | None = None,
    data: str = "",
    licence: str = "",
    about: Mapping[str, str] | None = None,
) -> ImportedModel:
    """Build this package's network from the parts of a published one, and check that they fit.

    Parameters
    ----------
    parts : Parts
    name : str
        Of the model, as stores and indexes will keep it.
    pca : Reduction or None
        Descriptors are reduced by it. None: by the model's own reduction, if it has one, else not at all.
    profile : str or None
        None: the one nearest to how the model was published.
    threshold : float or None
        Attention score below which a feature is not worth keeping, as published for this model.
    data, licence : str
        For the checkpoint's metadata.
    about : mapping or None
        Of the source: kept in the metadata beside what `parts` says.

    Raises
    ------
    CheckpointError
        If something is missing or has the wrong shape.
    ConfigError
        If `pca` is given for a model that has a reduction of its own.
    """
    import torch

    from delf_engine.model.backbones import ARCHITECTURES, build_trunk
    from delf_engine.model.network import DelfNetwork

    if pca is not None and parts.reduction is not None:
        raise ConfigError("this model has a reduction of its own, made with it; leave the PCA out")
    channels = ARCHITECTURES[parts.architecture].channels
    reduction = parts.reduction or pca or _identity(channels)
    trunk = build_trunk(parts.architecture, {k: torch.from_numpy(np.array(v)) for k, v in parts.trunk.items()})
    info = _info(parts, reduction, name, profile, threshold, data, licence, about or {})
    network = DelfNetwork(
        info.architecture,
        info.dim,
        hidden=info.attention_hidden,
        norm_weighted=False,
        bottleneck=info.attention_bottleneck,
        attention=info.attention,
        trunk=trunk,
    )
    given = {f"attention.{key}": value for key, value in (parts.attention or {}).items()}
    given |= {"projection.mean": reduction.mean, "projection.components": reduction.components}
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    for key, value in given.items():
        if key not in state or state[key].shape != value.shape:
            needed = state[key].shape if key in state else "no such weights"
            raise CheckpointError(f"{name}: {key} has shape {value.shape}, {needed} needed")
        state[key] = value
    return ImportedModel(state, info)


def files_hash(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    return digest.hexdigest()


def _identity(channels: int) -> Reduction:
    return Reduction(np.zeros(channels, np.float32), np.eye(channels, dtype=np.float32))


def _info(
    parts: Parts,
    reduction: Reduction,
    name: str,
    profile: str | None,
    threshold: float | None,
    data: str,
    licence: str,
    about: Mapping[str, str],
) -> CheckpointInfo:
    (mean, std), head = parts.normalisation, parts.attention or {}
    values: dict[str, Any] = {
        "format_version": 1,
        "name": name,
        "architecture": parts.architecture,
        "dim": len(reduction.components),
        "attention": "head" if head else "norm",
        "attention_hidden": len(head["conv1.bias"]) if head else 1,
        "attention_norm_weighted": False,
        "attention_bottleneck": len(head.get("autoencoder.0.bias", ())),
        "attention_threshold": threshold,
        "smoothing": parts.smoothing,
        "projection_unit_input": reduction.unit_input,
        "profile": profile or parts.profile,
        "preprocessing": f"RGB, (pixel / 255 - mean) / std with mean {_short(mean)}, std {_short(std)}",
        "mean": mean,
        "std": std,
        "data": data or "not stated",
        "recipe": json.dumps({"imported": {**about, **parts.about}}),
        "licence": licence or "not stated",
        "seed": 0,
    }
    return CheckpointInfo(**values)


def _short(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
