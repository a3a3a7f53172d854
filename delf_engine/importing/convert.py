"""One call from a published model to a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.errors import ConfigError

if TYPE_CHECKING:
    from delf_engine.importing.assemble import ImportedModel
    from delf_engine.importing.parts import Parts

__all__ = ["KINDS", "import_model"]

#: What can be imported.
KINDS = ("delf", "delg", "how", "torchvision")


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
        Of the model.
    pca : path or None
        PCA for a model without a reduction of its own, see `delf_engine.importing.pca.read_pca`. None:
        descriptors keep all channels of the feature map.
    dim : int or None
        Components of the PCA that are kept; None: all.
    whiten : bool
        Whiten by the variances of the PCA.
    stride : 16, 32 or None
        Of DELF's feature map; None: as it was saved where that is stated, else 32.
    profile, threshold, data, licence
        See `delf_engine.importing.assemble.assemble`.

    Raises
    ------
    ConfigError
        If `kind` is unknown, or options do not go together.
    FormatError
        If a file is missing, damaged, or not of the format.
    CheckpointError
        If the model is not of this kind, or cannot be expressed by this package's network.
    """
    from delf_engine.importing.assemble import assemble, files_hash
    from delf_engine.importing.pca import read_pca

    if kind not in KINDS:
        raise ConfigError(f"unknown kind of model {kind!r}; known kinds: {', '.join(KINDS)}")
    if pca is None and (dim is not None or whiten):
        raise ConfigError("a dimension and whitening need a PCA; give one")
    if stride is not None and kind not in ("delf", "delg"):
        raise ConfigError(f"the stride of {kind} cannot be chosen, only that of delf and delg")
    if profile is not None:
        from delf_engine.config import load_profile

        load_profile(profile)
    parts, files = _read(kind, source, stride)
    return assemble(
        parts,
        name=name,
        pca=None if pca is None else read_pca(pca, dim=dim, whiten=whiten),
        profile=profile,
        threshold=threshold,
        data=data,
        licence=licence,
        about={"kind": kind, "source": Path(source).name, "source_sha256": files_hash(files)},
    )


def _read(kind: str, source: str | os.PathLike[str], stride: int | None) -> tuple[Parts, list[Path]]:
    """Return the parts of the model, and the files it lies in."""
    if kind in ("delf", "delg"):
        from delf_engine.importing.bundle import bundle_prefix
        from delf_engine.importing.delf import read_delf

        parts = read_delf(source, stride=stride)
        prefix = bundle_prefix(source)
        return parts, sorted(prefix.parent.glob(f"{prefix.name}.*"))
    from delf_engine.importing.torch_files import read_how, read_torchvision

    readers: Mapping[str, Callable[[str | os.PathLike[str]], Parts]] = {
        "how": read_how,
        "torchvision": read_torchvision,
    }
    return readers[kind](source), [Path(source)]
