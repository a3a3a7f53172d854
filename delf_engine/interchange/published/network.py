"""A published network taken apart, in the layout of this package: what every reader of foreign models gives.

And its reduction: the PCA in files of its own, or the layer of the network that does the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError, ConfigError, FormatError
from delf_engine.interchange.messages import read_datum
from delf_engine.support.arrays import check_array
from delf_engine.support.files import library_errors

Floats = npt.NDArray[np.float32]
Rgb = tuple[float, float, float]

#: Mean and standard deviation of RGB in [0, 1].
IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF_RANGE: tuple[Rgb, Rgb] = ((128 / 255,) * 3, (128 / 255,) * 3)  # (pixel - 128) / 128, as DELF has it


@dataclass(frozen=True)
class Reduction:
    """Descriptors from feature vectors: components @ (L2(x) - mean), then L2; see `Projection`."""

    mean: Floats
    components: Floats
    unit_input: bool = True


@dataclass(frozen=True)
class PublishedNetwork:
    """A published model, taken apart."""

    architecture: str  # a name of `delf_engine.model.backbones.ARCHITECTURES`
    trunk: Mapping[str, npt.NDArray[Any]]  # as `delf_engine.model.backbones.build_trunk` takes them
    # Of an `AttentionHead`, not weighted by the norm; None: the L2 norm is the score.
    attention: Mapping[str, Floats] | None
    reduction: Reduction | None  # None: the model has none of its own
    smoothing: int = 1  # side of the window of averaging before reduction, in cells
    normalisation: tuple[Rgb, Rgb] = IMAGENET
    profile: str = "default"  # the one that comes nearest to how it was published
    library: str = "torchvision"  # what it was made with


def from_affine(weight: npt.NDArray[Any], bias: npt.NDArray[Any], where: str) -> Reduction:
    """Write ``weight @ x + bias``, of shapes (D, C) and (D,), as ``weight @ (x - mean)``; `where` names the model.

    A `CheckpointError` if there is no such mean (the rows of `weight` depend on each other), or a shape is wrong.
    """
    parts = f"{where}: weights of its reduction"
    matrix = check_array(parts, weight, np.float64, (None, None), error=CheckpointError)
    offset = check_array(f"{parts} (bias)", bias, np.float64, (len(matrix),), error=CheckpointError)
    if len(matrix) > matrix.shape[1]:
        raise CheckpointError(f"{where}: its reduction has more components than inputs, shape {matrix.shape}")
    mean = np.linalg.lstsq(matrix, -offset, rcond=None)[0]
    if np.abs(matrix @ mean + offset).max(initial=0) > 1e-5 * (1 + np.abs(offset).max(initial=0)):
        raise CheckpointError(
            f"{where}: the bias of its reduction cannot be written as a mean; it cannot be imported"
        )
    return Reduction(mean.astype(np.float32), np.ascontiguousarray(weight, np.float32), unit_input=False)


def read_pca(source: str | os.PathLike[str], *, dim: int | None = None, whiten: bool = False) -> Reduction:
    """Read the PCA of a published model: its first `dim` components, or all.

    `source` is a folder with ``mean.datum`` and ``pca_proj_mat.datum`` (and ``pca_vars.datum`` for whitening,
    which divides each component by the square root of its variance), or an ``.npz`` with ``mean``, ``components``
    (and ``variances``). A `FormatError` if a file is missing or damaged, or shapes do not fit each other; a
    `ConfigError` if there are fewer components than `dim`.
    """
    path = Path(source)
    given, components, *variances = _arrays(path, whiten)
    mean = check_array(f"{path}: mean", given.reshape(-1), np.float32, (None,), error=FormatError)
    fitting = (None, len(mean))
    components = check_array(f"{path}: components", components, np.float32, fitting, error=FormatError)
    if dim is not None and not 1 <= dim <= len(components):
        raise ConfigError(f"{path}: has {len(components)} components, {dim} were asked for")
    components = components[:dim]
    if variances:
        spread = variances[0].reshape(-1)[: len(components)]
        if len(spread) < len(components) or not ((spread > 0) & np.isfinite(spread)).all():
            raise FormatError(f"{path}: whitening needs {len(components)} variances, each above 0")
        components = (components / np.sqrt(spread)[:, None]).astype(np.float32)
    return Reduction(mean, np.ascontiguousarray(components))


def _arrays(path: Path, whiten: bool) -> list[Floats]:
    """Return mean, components and, for whitening, variances."""
    if path.suffix == ".npz":
        names = ["mean", "components", "variances"][: 2 + whiten]
        what = f"{path}: not a readable .npz of {', '.join(names)}"
        with library_errors(what), np.load(path, allow_pickle=False) as file:
            return [file[name].astype(np.float32) for name in names]
    if not path.is_dir():
        raise FormatError(f"{path}: not a folder of .datum files, and not an .npz")
    return [read_datum(path / f"{name}.datum") for name in ("mean", "pca_proj_mat", "pca_vars")[: 2 + whiten]]
