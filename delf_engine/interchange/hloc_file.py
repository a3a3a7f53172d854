"""Files of hloc (Hierarchical-Localization): features of many images in one HDF5 file, matches in another.

Each image is a group of its name (slashes in it make groups in groups) with the datasets ``keypoints`` (N, 2),
``descriptors`` (D, N), ``scores`` (N,) and ``image_size`` (2,), width and height; ``keypoints`` may carry the
attribute ``uncertainty`` in pixels, which is not read. We write ``scales`` (N,) as well, as hloc itself does where
an extractor states them. Keypoints have the same origin as ours, the centre of the top left pixel: hloc rescales
them by ``(k + 0.5) * scale - 0.5`` (hloc/extract_features.py).

A file of matches has a group ``A/B`` for each pair, where a slash in a name is a dash, with the datasets
``matches0`` (N_A,), for each keypoint of A that of B or -1, and ``matching_scores0`` (N_A,).

HDF5 needs h5py: ``pip install "delf-engine[hdf5]"``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.records import local_features
from delf_engine.support.arrays import check_array
from delf_engine.support.files import library_errors

if TYPE_CHECKING:
    from delf_engine.verification import Verification

_LARGEST_HALF = float(np.finfo(np.float16).max)


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
    if isinstance(names, str):
        raise ConfigError(f"names must be several names, got {names!r}; for one image, give [name]")
    h5py = require_h5py()
    with library_errors(f"{path}: cannot be read"), h5py.File(path, "r") as file:
        found = _image_names(file)
    wanted = list(found if names is None else names)
    unknown = [name for name in wanted if name.strip("/") not in found]
    if unknown:
        raise UnknownIdError(f"{path} holds no image {unknown[0]!r}")
    return _read(path, wanted, normalise)


def write_hloc(path: Path, items: Iterable[tuple[str, LocalFeatures]], *, half: bool, where: str) -> int:
    """Write a new feature file of hloc, one image at a time; return their number.

    Errors name `where`, the file whose place it takes when it is whole. With `half`, descriptors and scores are of
    half precision. A `FormatError` if it cannot be written, or a score is too large for half precision.
    """
    count, small = 0, np.float16 if half else np.float32
    with library_errors(f"{where}: cannot be written"):
        file = require_h5py().File(path, "w")
    try:
        for name, features in items:
            if half and len(features) and np.abs(features.scores).max() > _LARGEST_HALF:
                raise FormatError(
                    f"{where}: {name!r}: a score is above {_LARGEST_HALF:.0f}, too large for half precision; "
                    "leave it out"
                )
            with library_errors(f"{where}: {name!r}: cannot be written"):
                group = file.create_group(name) if name not in file else file[name]  # there as a folder of others
                group.create_dataset("keypoints", data=features.keypoints)
                group.create_dataset("descriptors", data=np.ascontiguousarray(features.descriptors.T, small))
                group.create_dataset("scores", data=features.scores.astype(small))
                group.create_dataset("scales", data=features.scales)
                group.create_dataset("image_size", data=np.array(features.image_size, np.int64))
            count += 1
    finally:
        with library_errors(f"{where}: cannot be written"):
            file.close()
    return count


def write_hloc_matches(
    path: Path, images: Mapping[str, LocalFeatures], pairs: Iterable[tuple[str, str, Verification]], where: str
) -> None:
    """Write a new file of matches; errors name `where`.

    A `DataError` if two pairs get the same name: hloc takes the slashes of names for dashes. A `FormatError` if it
    cannot be written.
    """
    with library_errors(f"{where}: cannot be written"), require_h5py().File(path, "w") as file:
        for a, b, found in pairs:
            group = "/".join(name.replace("/", "-") for name in (a, b))
            if group in file:
                raise DataError(f"{where}: two pairs would both be {group!r} in it; rename {a!r} or {b!r}")
            of_a, of_b = found.matches.T
            matches = np.full(len(images[a]), -1, np.int32)
            scores = np.zeros(len(images[a]), np.float16)
            matches[of_a], scores[of_a] = of_b, found.similarities
            file.create_dataset(f"{group}/matches0", data=matches)
            file.create_dataset(f"{group}/matching_scores0", data=scores)


def require_h5py() -> Any:
    """Return the module h5py; raise a `ConfigError` if it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ConfigError('files of hloc need h5py: pip install "delf-engine[hdf5]"') from error
    return h5py


def _read(path: str | os.PathLike[str], names: list[str], normalise: bool) -> Iterator[tuple[str, LocalFeatures]]:
    with library_errors(f"{path}: cannot be read"), require_h5py().File(path, "r") as file:
        for name in names:
            where = f"{path}: {name!r}"
            with library_errors(f"{where}: cannot be read"):
                features = _read_image(file[name], where, normalise)
            yield name, features


def _image_names(file: Any) -> dict[str, None]:
    """Return the names of all groups that hold keypoints, in their order."""
    datasets: list[str] = []
    file.visititems(lambda name, found: datasets.append(name) if hasattr(found, "dtype") else None)
    names = dict.fromkeys(name[: -len("/keypoints")] for name in datasets if name.endswith("/keypoints"))
    if datasets and not names:
        raise FormatError(f"{file.filename}: holds no keypoints; is it a file of matches or global descriptors?")
    return names


def _read_image(group: Any, where: str, normalise: bool) -> LocalFeatures:
    def array(name: str, *shape: int | None) -> npt.NDArray[np.float64]:
        if name not in group:
            raise FormatError(f"{where}: has no {name}; these are not the local features of an image")
        with library_errors(f"{where}: {name} cannot be read"):
            values = group[name][()]
        return check_array(f"{where}: {name}", values, np.float64, shape, error=FormatError)

    keypoints, descriptors = array("keypoints", None, 2), array("descriptors", None, None)
    n = len(keypoints)
    if descriptors.shape[1] != n:
        hint = "; they are transposed" if descriptors.shape[0] == n else ""
        raise FormatError(
            f"{where}: {n} keypoints need descriptors of shape (D, {n}), got {descriptors.shape}{hint}; "
            "write the file again"
        )
    size = array("image_size", 2) if "image_size" in group else None
    return local_features(
        where,
        keypoints=keypoints,
        scales=array("scales", n) if "scales" in group else np.ones(n),
        scores=array("scores", n) if "scores" in group else np.ones(n),
        descriptors=descriptors.T,
        image_size=None if size is None else (int(size[0]), int(size[1])),
        normalise=normalise,
    )
