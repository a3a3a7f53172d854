"""Checkpoints: safetensors files that say what they are, and are checked against their own hash.

They are found by their path, or by their name if they come with the package.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from delf_engine import __version__
from delf_engine.config import Config, parse_config
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.support.files import replacing
from delf_engine.support.threads import torch_after_fork

DEFAULT_MODEL = "delf-r18"

_KEY = "delf_engine"
_VERSION = 2
_SUFFIX = ".safetensors"
_CODEBOOK, _GLOBAL_HEAD = ".codebook.safetensors", ".global.safetensors"

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
        Hidden channels of the attention head; without one, 1.
    attention_norm_weighted : bool
    profile : str
        Profile it is meant for.
    preprocessing : str
        What is done to an image before the network sees it, in words.
    data, recipe, licence : str
        What it was trained on and how, in words.
    seed : int
    figures : dict
        Measured with this checkpoint, by name.
    sha256 : str
        Hash of all tensors: names, types, shapes and bytes.
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
    package_version : str or None
        Version of the package that wrote it.
    training_data_sha256 : str or None
        Hash of the list of photographs it was trained on.
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
    package_version: str | None = None
    training_data_sha256: str | None = None
    codebook_sha256: str | None = None

    @property
    def identity(self) -> str:
        """Name and hash, as stores and indexes keep it to know their model again."""
        return f"{self.name}@{self.sha256[:16]}"


def checkpoint_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a checkpoint, given its path or the name of one that comes with the package.

    A file goes before a name.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    text = os.fspath(name_or_path)
    if os.path.isfile(text):
        return Path(text)
    names = checkpoint_names()
    if text in names:
        return packaged_folder() / f"{text}{_SUFFIX}"
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        raise CheckpointError(
            f"{text}: checkpoints are not downloaded; fetch this file yourself and give its path"
        )
    hint = difflib.get_close_matches(text, names, n=1, cutoff=0.75)
    raise CheckpointError(
        f"there is no checkpoint {text!r}: neither a file nor one of those that come with the package "
        f"({', '.join(names)})" + (f". Did you mean {hint[0]!r}?" if hint else "")
    )


def model_reference(name_or_path: str | os.PathLike[str]) -> str:
    """Return what to write down to find the same checkpoint again: a name as it is, a path in full.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    path = checkpoint_path(name_or_path)
    return str(path.resolve()) if os.path.isfile(name_or_path) else os.fspath(name_or_path)


def checkpoint_names() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    found = packaged_folder().glob(f"*{_SUFFIX}")
    return sorted(path.stem for path in found if not path.name.endswith((_CODEBOOK, _GLOBAL_HEAD)))


def packaged_folder() -> Path:
    """Return the folder of the checkpoints that come with the package."""
    return Path(__file__).parent.parent / "checkpoints"


def codebook_path(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the codebook that lies beside a checkpoint (``NAME.codebook.safetensors``), or None."""
    beside = codebook_beside(checkpoint_path(name_or_path))
    return beside if beside.is_file() else None


def codebook_beside(path: Path) -> Path:
    """Return where the codebook of a checkpoint lies if it has one: ``NAME.codebook.safetensors``."""
    return path.with_name(f"{path.stem}{_CODEBOOK}")


def global_head_path(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the global head that lies beside a checkpoint (``NAME.global.safetensors``), or None."""
    beside = global_head_beside(checkpoint_path(name_or_path))
    return beside if beside.is_file() else None


def global_head_beside(path: Path) -> Path:
    """Return where the global head of a checkpoint lies if it has one: ``NAME.global.safetensors``."""
    return path.with_name(f"{path.stem}{_GLOBAL_HEAD}")


def read_checkpoint_info(name_or_path: str | os.PathLike[str]) -> CheckpointInfo:
    """Read what a checkpoint says of itself, without its weights and without torch.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, not a checkpoint of this package, or of another format version.
    """
    return read_tensors(name_or_path, weights=False)[0]


def read_tensors(
    name_or_path: str | os.PathLike[str], *, weights: bool = True
) -> tuple[CheckpointInfo, dict[str, npt.NDArray[Any]]]:
    """Read a checkpoint as arrays, in the precision of the file and without torch; the hash is not checked.

    Errors are those of `read_checkpoint_info`.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint_path(name_or_path)
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
        said = {key: value for key, value in values.items() if value is not None}
        return parse_config(CheckpointInfo, said, where=str(path)), tensors
    except (json.JSONDecodeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: damaged metadata: {error}") from error


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

    torch_after_fork()
    path = checkpoint_path(name_or_path)
    info, tensors = read_tensors(path)
    found = tensors_sha256(tensors)
    if found != info.sha256:
        raise CheckpointError(
            f"{path}: damaged: its weights have SHA-256 {found[:16]}..., it states {info.sha256[:16]}...; "
            "get the file again"
        )
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
    """Write a checkpoint; replaces the file at once or not at all.

    Parameters
    ----------
    path : path
    state : mapping of name to array
        Weights of the network.
    info : CheckpointInfo
        What the checkpoint says of itself.
    half : bool
        In half precision, or as the weights are.

    Returns
    -------
    CheckpointInfo
        `info` with the hash of what was written and the version of this package.

    Raises
    ------
    CheckpointError
        If a weight is NaN, or too large for half precision.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # what overflows is refused below
        tensors = {k: np.ascontiguousarray(v.astype(np.float16 if half else v.dtype)) for k, v in state.items()}
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"{key} is not finite{' in half precision' if half else ''}; nothing was written"
            )
    stamps = {"sha256": tensors_sha256(tensors), "format_version": _VERSION, "package_version": __version__}
    stamped = info.model_copy(update=stamps)
    data = save(tensors, metadata={_KEY: stamped.model_dump_json()})
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(data)
    return stamped


def tensors_sha256(tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of tensors: names in order, types, shapes and bytes."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
