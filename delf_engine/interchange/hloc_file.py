"""Feature files of hloc (Hierarchical-Localization): one HDF5 file for many images.

Each image is a group of its name (slashes in it make groups in groups) with the datasets ``keypoints`` (N, 2),
``descriptors`` (D, N), ``scores`` (N,) and ``image_size`` (2,), width and height; ``keypoints`` may carry the
attribute ``uncertainty`` in pixels, which is not read. We write ``scales`` (N,) as well, as hloc itself does where
an extractor states them. Keypoints have the same origin as ours, the centre of the top left pixel: hloc rescales
them by ``(k + 0.5) * scale - 0.5`` (hloc/extract_features.py).

HDF5 needs h5py: ``pip install "delf-engine[hdf5]"``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DelfEngineError, FormatError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.files import check_target, named, replacing
from delf_engine.interchange.records import local_features

__all__ = ["read_hloc", "write_hloc"]

_LARGEST_HALF = float(np.finfo(np.float16).max)
_H5PY_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_hloc(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, *, normalise: bool = False
) -> Iterator[tuple[str, LocalFeatures]]:
    """Read a feature file of hloc, of any extractor, one image at a time.

    What an extractor does not state is filled in: scales and scores are 1, and the image size is the smallest that
    holds all keypoints.

    Parameters
    ----------
    path : path
    names : iterable of str or None
        Images to read, in this order; None: all, in the order of the file.
    normalise : bool
        Scale descriptors to unit length. Otherwise an image whose descriptors are not of unit length is refused.

    Yields
    ------
    name : str
    features : LocalFeatures
        Sorted by descending score; equal scores keep their order.

    Raises
    ------
    ConfigError
        If h5py is not installed.
    FormatError
        If the file cannot be read or holds no local features, or, on reaching it, an image is not as described.
    UnknownIdError
        If the file does not hold one of `names`.
    """
    h5py = _h5py()
    if isinstance(names, str):
        raise ConfigError(f"names must be several names, got {names!r}; for one image, give [name]")
    with _opened(path) as file, _translated(path, "cannot be read"):
        found = _image_names(h5py, file)
    if names is None:
        return _read(path, found, normalise)
    wanted = list(names)
    there = set(found)
    for name in wanted:
        if name.strip("/") not in there:
            raise UnknownIdError(f"{path} holds no image {name!r}")
    return _read(path, wanted, normalise)


def write_hloc(
    path: str | os.PathLike[str],
    items: Iterable[tuple[str, LocalFeatures]],
    *,
    half: bool = False,
    replace: bool = False,
) -> int:
    """Write a feature file of hloc, one image at a time: all of them, or on any error none.

    Parameters
    ----------
    path : path
        Usually ``NAME.h5``; its folder is made if need be.
    items : iterable of (name of the image, LocalFeatures)
        Names as `delf_engine.interchange.files.relative_name` makes them.
    half : bool
        Descriptors and scores in half precision. Unlike in hloc, keypoints stay in single precision: a half
        has steps of 1 pixel from 1024 on.
    replace : bool
        Replace a file that is there.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ConfigError
        If h5py is not installed.
    FormatError
        If the file is there already or cannot be written, or a score is too large for half precision.
    DataError
        If two images get the same name.
    """
    h5py = _h5py()
    path = Path(path)
    check_target(path, folder=False, replace=replace)
    count = 0
    with replacing(path) as temporary:
        with _translated(path, "cannot be written"):
            file = h5py.File(temporary, "w")
        try:
            for name, features in named(items):
                with _translated(f"{path}: {name!r}", "cannot be written"):
                    _write_image(file, name, features, half, f"{path}: {name!r}")
                count += 1
        finally:
            with _translated(path, "cannot be written"):
                file.close()
    return count


# ----------------------------------------------------------------------------------------------------- reading


def _read(path: str | os.PathLike[str], names: list[str], normalise: bool) -> Iterator[tuple[str, LocalFeatures]]:
    with _opened(path) as file:
        for name in names:
            where = f"{path}: {name!r}"
            with _translated(where, "cannot be read"):
                features = _read_image(file[name], where, normalise)
            yield name, features


def _image_names(h5py: Any, file: Any) -> list[str]:
    """Return the names of all groups that hold keypoints."""
    names: list[str] = []
    anything = False

    def visit(name: str, found: Any) -> None:
        nonlocal anything
        if isinstance(found, h5py.Dataset):
            anything = True
            image, _, part = name.rpartition("/")
            if part == "keypoints" and image:
                names.append(image)

    file.visititems(visit)
    if anything and not names:
        raise FormatError(f"{file.filename}: holds no keypoints; is it a file of matches or global descriptors?")
    return names


def _read_image(group: Any, where: str, normalise: bool) -> LocalFeatures:
    keypoints = _array(group, "keypoints", 2, where)
    descriptors = _array(group, "descriptors", 2, where)
    n = len(keypoints)
    if descriptors.shape[1] != n:
        hint = "; they are transposed" if descriptors.shape[0] == n else ""
        raise FormatError(
            f"{where}: {n} keypoints need descriptors of shape (D, {n}), got {descriptors.shape}{hint}; "
            "write the file again"
        )
    size = _array(group, "image_size", 1, where) if "image_size" in group else None
    if size is not None and (size.shape != (2,) or not np.isfinite(size).all()):
        raise FormatError(
            f"{where}: image_size must be width and height, got {size.tolist()}; write the file again"
        )
    return local_features(
        where,
        keypoints=keypoints,
        scales=_array(group, "scales", 1, where) if "scales" in group else np.ones(n, np.float32),
        scores=_array(group, "scores", 1, where) if "scores" in group else np.ones(n, np.float32),
        descriptors=descriptors.T,
        image_size=None if size is None else (int(size[0]), int(size[1])),
        normalise=normalise,
    )


def _array(group: Any, name: str, ndim: int, where: str) -> npt.NDArray[Any]:
    if name not in group:
        raise FormatError(f"{where}: has no {name}; these are not the local features of an image")
    dataset = group[name]
    shape, kind = getattr(dataset, "shape", None), getattr(getattr(dataset, "dtype", None), "kind", "")
    if shape is None or len(shape) != ndim or kind not in "fiu":
        raise FormatError(f"{where}: {name} must be an array of numbers in {ndim} dimension(s), got {dataset}")
    values: npt.NDArray[Any] = dataset[()]
    return values


# ----------------------------------------------------------------------------------------------------- writing


def _write_image(file: Any, name: str, features: LocalFeatures, half: bool, where: str) -> None:
    small = np.float16 if half else np.float32
    if half and len(features) and np.abs(features.scores).max() > _LARGEST_HALF:
        raise FormatError(
            f"{where}: a score is above {_LARGEST_HALF:.0f}, too large for half precision; leave it out"
        )
    group = file.create_group(name) if name not in file else file[name]  # there as the folder of another image
    group.create_dataset("keypoints", data=features.keypoints)
    group.create_dataset("descriptors", data=np.ascontiguousarray(features.descriptors.T, small))
    group.create_dataset("scores", data=features.scores.astype(small))
    group.create_dataset("scales", data=features.scales)
    group.create_dataset("image_size", data=np.array(features.image_size, np.int64))


# ------------------------------------------------------------------------------------------------------ common


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError('feature files of hloc need h5py: pip install "delf-engine[hdf5]"') from error
    return h5py


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    with _translated(path, "cannot be read"):
        file = _h5py().File(path, "r")
    try:
        yield file
    finally:
        file.close()


@contextlib.contextmanager
def _translated(where: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn what h5py raises, of many types on a damaged file, into `FormatError`."""
    try:
        yield
    except DelfEngineError:
        raise
    except _H5PY_ERRORS as error:
        raise FormatError(f"{os.fspath(where)}: {what}: {error}") from error
