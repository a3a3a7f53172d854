"""From a published model to a checkpoint of this package."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.interchange.published.network import PublishedNetwork, Reduction, read_pca
from delf_engine.model import CheckpointInfo
from delf_engine.support.files import system_errors

#: What can be imported.
KINDS = ("delf", "delg", "how", "torchvision", "vit")

State = dict[str, npt.NDArray[np.float32]]


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
) -> tuple[State, CheckpointInfo]:
    """Read a published model and build this package's network from it; ``model import`` tells the options.

    `kind` is one of `KINDS`, of which ``delf`` and ``delg`` read the same formats; `name` is that of the model, as
    stores and indexes will keep it. `pca` (`network.read_pca`), `dim` and `whiten` are for a model without a
    reduction of its own. Returned are the network's weights by name, and what the checkpoint says of it, as
    `delf_engine.model.save_checkpoint` takes them.

    A `ConfigError` if `kind` is unknown, or options do not go together; a `FormatError` if a file is missing,
    damaged, or not of the format; a `CheckpointError` if the model is not of this kind, or cannot be expressed by
    this package's network.
    """
    from delf_engine.config import load_profile

    if kind not in KINDS:
        raise ConfigError(f"unknown kind of model {kind!r}; known kinds: {', '.join(KINDS)}")
    if pca is None and (dim is not None or whiten):
        raise ConfigError("a dimension and whitening need a PCA; give one")
    if stride is not None and kind not in ("delf", "delg"):
        raise ConfigError(f"the stride of {kind} cannot be chosen, only that of delf and delg")
    if profile is not None:
        load_profile(profile)
    if kind in ("delf", "delg"):
        from delf_engine.interchange.published.delf import read_delf_model
        from delf_engine.interchange.published.tensorflow_files import bundle_prefix

        prefix = bundle_prefix(source)
        network, files = read_delf_model(prefix, stride=stride), sorted(prefix.parent.glob(f"{prefix.name}.*"))
    else:
        from delf_engine.interchange.published.torch_files import read_how, read_torchvision
        from delf_engine.interchange.published.vit import read_vit

        files = [_local(source)]
        network = {"how": read_how, "torchvision": read_torchvision, "vit": read_vit}[kind](files[0])
    reduction = None if pca is None else read_pca(pca, dim=dim, whiten=whiten)
    digest = hashlib.sha256()
    for path in files:
        with system_errors(f"{path}: cannot be read"), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    origin = {
        "kind": kind,
        "source": Path(os.fspath(source).partition("#sha256=")[0]).name,
        "source_sha256": digest.hexdigest(),
    }
    origin["library"] = network.library
    return assemble(
        network,
        name,
        reduction,
        profile=profile or network.profile,
        attention_threshold=threshold,
        data=data or "not stated",
        licence=licence or "not stated",
        recipe=json.dumps({"imported": origin}),
    )


def _local(source: str | os.PathLike[str]) -> Path:
    """Return the path of a file, or that of what was downloaded from a URL."""
    if "://" not in os.fspath(source):
        return Path(source)
    import pooch
    import requests

    url, _, digest = os.fspath(source).partition("#sha256=")
    if not digest:
        raise ConfigError(f"{url}: say which file it should be, {url}#sha256=HEX, or give a file")
    try:
        return Path(pooch.retrieve(url, f"sha256:{digest}"))
    except (requests.RequestException, OSError, ValueError) as error:
        raise CheckpointError(f"{url}: cannot be downloaded: {error}; give a file instead") from error


def assemble(
    published: PublishedNetwork, name: str, pca: Reduction | None = None, **stated: Any
) -> tuple[State, CheckpointInfo]:
    """Build this package's network from the parts of a published one, and check that they fit.

    Descriptors are reduced by the model's own reduction or else by `pca`, if there is one of them; `stated` are
    fields of `CheckpointInfo` that the parts do not tell. Returned is what `import_model` returns. A
    `CheckpointError` if something is missing or has the wrong shape; a `ConfigError` if `pca` is given for a model
    that has a reduction of its own.
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
    (mean, std), head = published.normalisation, published.attention or {}
    words = [", ".join(f"{value:.4g}" for value in values) for values in (mean, std)]
    info = CheckpointInfo(
        name=name,
        architecture=published.architecture,
        dim=len(reduction.components),
        attention="head" if head else "norm",
        attention_hidden=len(head["conv1.bias"]) if head else 1,
        attention_norm_weighted=False,
        attention_bottleneck=len(head.get("autoencoder.0.bias", ())),
        smoothing=published.smoothing,
        projection_unit_input=reduction.unit_input,
        preprocessing=f"RGB, (pixel / 255 - mean) / std with mean {words[0]}, std {words[1]}",
        mean=mean,
        std=std,
        seed=0,
        **{"profile": published.profile, **dict.fromkeys(("data", "licence", "recipe"), "not stated"), **stated},
    )
    network = DelfNetwork(
        info.architecture,
        info.dim,
        hidden=info.attention_hidden,
        norm_weighted=False,
        bottleneck=info.attention_bottleneck,
        attention=info.attention,
        trunk=build_trunk(published.architecture, weights),
    )
    given = {f"attention.{key}": value for key, value in head.items()}
    given |= {"projection.mean": reduction.mean, "projection.components": reduction.components}
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    for key, value in given.items():
        if key not in state or state[key].shape != value.shape:
            needed = state[key].shape if key in state else "no such weights"
            raise CheckpointError(f"{name}: {key} has shape {value.shape}, {needed} needed")
    return {**state, **given}, info
