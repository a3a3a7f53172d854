"""From a published model to a checkpoint of this package."""

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
from delf_engine.interchange.published.network import PublishedNetwork, Reduction
from delf_engine.model import CheckpointInfo, save_checkpoint
from delf_engine.support.files import system_errors

__all__ = ["KINDS", "ImportedModel", "assemble", "import_model"]

#: What can be imported.
KINDS = ("delf", "delg", "how", "torchvision")


@dataclass(frozen=True)
class ImportedModel:
    """A network's weights by name, and what its checkpoint says of it."""

    state: Mapping[str, npt.NDArray[np.float32]]
    info: CheckpointInfo

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> CheckpointInfo:
        """Write the checkpoint; see `delf_engine.model.save_checkpoint`."""
        return save_checkpoint(path, self.state, self.info, half=half)


def import_model(
    kind: str,
    source: str | os.PathLike[str],
    *,
    name: str,
    pca: str | os.PathLike[str] | None = None,
    dim: int | None = None,
    whiten: bool = False,
    stride: int | None = None,
    profile: str | None = None,
    threshold: float | None = None,
    data: str = "",
    licence: str = "",
) -> ImportedModel:
    """Read a published model and build this package's network from it.

    Parameters
    ----------
    kind : str
        One of `KINDS`. ``delf`` and ``delg`` read the same formats.
    source : path
        ``delf``, ``delg``: folder of a SavedModel, or prefix of a checkpoint. ``how``, ``torchvision``: a file.
    name : str
        Of the model, as stores and indexes will keep it.
    pca : path or None
        PCA for a model without a reduction of its own, see `delf_engine.interchange.published.pca.read_pca`.
        None: descriptors keep all channels of the feature map.
    dim : int or None
        Components of the PCA that are kept; None: all.
    whiten : bool
        Whiten by the variances of the PCA.
    stride : 16, 32 or None
        Of DELF's feature map; None: as it was saved where that is stated, else 32.
    profile : str or None
        None: the one nearest to how the model was published.
    threshold : float or None
        Attention score below which a feature is not worth keeping, as published for this model.
    data, licence : str
        For the checkpoint's metadata.

    Raises
    ------
    ConfigError
        If `kind` is unknown, or options do not go together.
    FormatError
        If a file is missing, damaged, or not of the format.
    CheckpointError
        If the model is not of this kind, or cannot be expressed by this package's network.
    """
    from delf_engine.config import load_profile
    from delf_engine.interchange.published.pca import read_pca

    if kind not in KINDS:
        raise ConfigError(f"unknown kind of model {kind!r}; known kinds: {', '.join(KINDS)}")
    if pca is None and (dim is not None or whiten):
        raise ConfigError("a dimension and whitening need a PCA; give one")
    if stride is not None and kind not in ("delf", "delg"):
        raise ConfigError(f"the stride of {kind} cannot be chosen, only that of delf and delg")
    if profile is not None:
        load_profile(profile)
    network, files = _read(kind, source, stride)
    reduction = None if pca is None else read_pca(pca, dim=dim, whiten=whiten)
    origin = {"kind": kind, "source": Path(source).name, "source_sha256": _files_hash(files), **network.about}
    stated = {
        "profile": profile or network.profile,
        "attention_threshold": threshold,
        "data": data or "not stated",
        "licence": licence or "not stated",
        "recipe": json.dumps({"imported": origin}),
    }
    return assemble(network, name, reduction, **stated)


def assemble(published: PublishedNetwork, name: str, pca: Reduction | None = None, **stated: Any) -> ImportedModel:
    """Build this package's network from the parts of a published one, and check that they fit.

    Parameters
    ----------
    published : PublishedNetwork
    name : str
        Of the model.
    pca : Reduction or None
        Descriptors are reduced by it. None: by the model's own reduction, if it has one, else not at all.
    **stated
        Fields of `CheckpointInfo` that the parts do not tell.

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

    if pca is not None and published.reduction is not None:
        raise ConfigError("this model has a reduction of its own, made with it; leave the PCA out")
    channels = ARCHITECTURES[published.architecture].channels
    unreduced = Reduction(np.zeros(channels, np.float32), np.eye(channels, dtype=np.float32))
    reduction = published.reduction or pca or unreduced
    weights = {key: torch.from_numpy(np.array(value)) for key, value in published.trunk.items()}
    trunk = build_trunk(published.architecture, weights)
    info = _info(published, reduction, name, stated)
    network = DelfNetwork(
        info.architecture,
        info.dim,
        hidden=info.attention_hidden,
        norm_weighted=False,
        bottleneck=info.attention_bottleneck,
        attention=info.attention,
        trunk=trunk,
    )
    given = {f"attention.{key}": value for key, value in (published.attention or {}).items()}
    given |= {"projection.mean": reduction.mean, "projection.components": reduction.components}
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    for key, value in given.items():
        if key not in state or state[key].shape != value.shape:
            needed = state[key].shape if key in state else "no such weights"
            raise CheckpointError(f"{name}: {key} has shape {value.shape}, {needed} needed")
        state[key] = value
    return ImportedModel(state, info)


def _read(kind: str, source: str | os.PathLike[str], stride: int | None) -> tuple[PublishedNetwork, list[Path]]:
    """Return the parts of the model, and the files it lies in."""
    if kind in ("delf", "delg"):
        from delf_engine.interchange.published.delf import read_delf_model
        from delf_engine.interchange.published.tensorflow_files import bundle_prefix

        prefix = bundle_prefix(source)
        return read_delf_model(prefix, stride=stride), sorted(prefix.parent.glob(f"{prefix.name}.*"))
    from delf_engine.interchange.published.torch_files import read_how, read_torchvision

    return (read_how if kind == "how" else read_torchvision)(source), [Path(source)]


def _files_hash(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with system_errors(f"{path}: cannot be read"), path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    return digest.hexdigest()


def _info(
    published: PublishedNetwork, reduction: Reduction, name: str, stated: Mapping[str, Any]
) -> CheckpointInfo:
    (mean, std), head = published.normalisation, published.attention or {}
    words = [", ".join(f"{value:.4g}" for value in values) for values in (mean, std)]
    told: dict[str, Any] = {
        "name": name,
        "architecture": published.architecture,
        "dim": len(reduction.components),
        "attention": "head" if head else "norm",
        "attention_hidden": len(head["conv1.bias"]) if head else 1,
        "attention_norm_weighted": False,
        "attention_bottleneck": len(head.get("autoencoder.0.bias", ())),
        "smoothing": published.smoothing,
        "projection_unit_input": reduction.unit_input,
        "profile": published.profile,
        "preprocessing": f"RGB, (pixel / 255 - mean) / std with mean {words[0]}, std {words[1]}",
        "mean": mean,
        "std": std,
        "data": "not stated",
        "licence": "not stated",
        "recipe": "not stated",
        "seed": 0,
    }
    return CheckpointInfo(**{**told, **stated})
