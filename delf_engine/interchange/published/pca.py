"""PCA of published models: a folder of ``.datum`` files, or an ``.npz``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FormatError
from delf_engine.interchange.datum import read_datum
from delf_engine.interchange.published.network import Reduction

__all__ = ["read_pca"]

Floats = npt.NDArray[np.float32]


def read_pca(source: str | os.PathLike[str], *, dim: int | None = None, whiten: bool = False) -> Reduction:
    """Read the PCA of a published model.

    Parameters
    ----------
    source : path
        A folder with ``mean.datum`` and ``pca_proj_mat.datum`` (and ``pca_vars.datum`` for whitening), or an
        ``.npz`` with ``mean``, ``components`` (and ``variances``).
    dim : int or None
        Take the first `dim` components; None: all that are there.
    whiten : bool
        Divide each component by the square root of its variance.

    Raises
    ------
    FormatError
        If a file is missing or damaged, or shapes do not fit each other.
    ConfigError
        If there are fewer components than `dim`.
    """
    path = Path(source)
    mean, components, variances = _from_npz(path, whiten) if path.suffix == ".npz" else _from_folder(path, whiten)
    mean = mean.reshape(-1)
    if components.ndim != 2 or components.shape[1] != len(mean) or len(components) > len(mean):
        raise FormatError(f"{path}: components {components.shape} do not fit a mean of {len(mean)} values")
    if dim is not None and not 1 <= dim <= len(components):
        raise ConfigError(f"{path}: has {len(components)} components, {dim} were asked for")
    components = components[:dim]
    if variances is not None:
        variances = variances.reshape(-1)[: len(components)]
        if len(variances) < len(components) or not (variances > 0).all():
            raise FormatError(
                f"{path}: whitening needs a variance above 0 for each of {len(components)} components"
            )
        components = (components / np.sqrt(variances)[:, None]).astype(np.float32)
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        raise FormatError(f"{path}: its values are not finite")
    return Reduction(mean.astype(np.float32), np.ascontiguousarray(components, np.float32))


def _from_folder(path: Path, whiten: bool) -> tuple[Floats, Floats, Floats | None]:
    if not path.is_dir():
        raise FormatError(f"{path}: not a folder of .datum files, and not an .npz")
    variances = read_datum(path / "pca_vars.datum") if whiten else None
    return read_datum(path / "mean.datum"), read_datum(path / "pca_proj_mat.datum"), variances


def _from_npz(path: Path, whiten: bool) -> tuple[Floats, Floats, Floats | None]:
    wanted = ("mean", "components", "variances") if whiten else ("mean", "components")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key].astype(np.float32) for key in wanted if key in file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path}: not a readable .npz of numbers: {error}") from error
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise FormatError(f"{path}: has no array {missing[0]!r}; {', '.join(wanted)} are needed")
    return arrays["mean"], arrays["components"], arrays.get("variances")
