"""Text files that COLMAP's ``feature_importer`` reads: one ``NAME.txt`` for each image.

The first line is ``N 128``, each other ``X Y SCALE ORIENTATION D_1 ... D_128`` with the D between 0 and 255.
COLMAP puts the centre of the top left pixel at (0.5, 0.5) (COLMAP, doc/database.rst), we at (0, 0): keypoints are
shifted by half a pixel. Orientations are written as 0 and not read; scores are not in the file, only their order.

Descriptors
-----------
COLMAP knows SIFT alone: 128 whole numbers of a vector of length 512, none of them negative. Its matchers
compare Euclidean distances or, on a GPU, angles that assume this length. `encode` keeps the order of both:

- D <= 127: ``c + s * B d`` in whole numbers of the same sum, where the D columns of B are columns 1 to D of the
  Hadamard matrix of order 128 over sqrt(128). They are orthonormal, and orthogonal to the constant vector that c
  stands for: distances are s times ours up to rounding, and every vector has length 512. As ``|B d| <= sqrt(D /
  128)``, the values stay within 0 and 2 c with ``s = 512 / sqrt(1 + D)`` and ``c = s * sqrt(D / 128)``: nothing is
  ever clipped. Rounding adds about ``4.6 / s`` to distances between unit vectors, in squares (0.06 at D = 40).
- D = 128 and nothing negative: ``min(round(512 d), 255)``, as COLMAP does it for its own SIFT.
- D = 128 otherwise: as for D <= 127 with the constant column as the last of B. Distances are kept, lengths
  differ: match with COLMAP's default matcher for CPUs.

Distances are smaller than those of SIFT, so that COLMAP's ratio test works as ever, but its maximum distance
refuses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.files import write_folder
from delf_engine.interchange.records import local_features

__all__ = ["DIM", "encode", "read_colmap", "serialise_colmap", "write_colmap"]

#: Dimension of the descriptors that COLMAP reads.
DIM = 128

_LENGTH = 512.0  # of a descriptor in COLMAP
_LARGEST = 255


def write_colmap(
    folder: str | os.PathLike[str], items: Iterable[tuple[str, LocalFeatures]], *, overwrite: bool = False
) -> int:
    """Write one text file for each image, for ``colmap feature_importer --import_path FOLDER``.

    Parameters
    ----------
    folder : path
        Made if need be; must be empty, or `overwrite` be given.
    items : iterable of (name of the image, LocalFeatures)
        COLMAP looks for the path of the image relative to its ``--image_path``, and ``.txt``. Names with
        sub-folders make sub-folders and never leave `folder` (`delf_engine.interchange.files.relative_name`).
    overwrite : bool
        Replace files of the same name; others stay.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    FormatError
        If the folder is not empty or cannot be written.
    DataError
        If descriptors have more than 128 dimensions, or two images get the same name. Files written before
        that stay.
    """
    return write_folder(Path(folder), items, ".txt", serialise_colmap, overwrite=overwrite)


def read_colmap(path: str | os.PathLike[str], image_size: tuple[int, int] | None = None) -> LocalFeatures:
    """Read one text file, of this package or any other; the descriptors may have any dimension.

    Parameters
    ----------
    path : path
        ``NAME.txt``.
    image_size : (width, height) or None
        Of the image in pixels; the file does not state it. None: the smallest size that holds all keypoints.

    Returns
    -------
    LocalFeatures
        In the order of the file, all scores 1. Descriptors are those of the file over their length; `encode` is
        not undone.

    Raises
    ------
    FormatError
        If the file cannot be read, is damaged, or a descriptor is zero or not within 0 and 255.
    """
    try:
        text = Path(path).read_bytes().decode("ascii")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is no text; this is no text file of features") from error
    table = _table(text, str(path))
    descriptors = table[:, 4:]
    if not ((descriptors >= 0) & (descriptors <= _LARGEST)).all():
        raise FormatError(f"{path}: the values of descriptors must be within 0 and 255; write the file again")
    return local_features(
        str(path),
        keypoints=table[:, :2] - 0.5,
        scales=table[:, 2],
        scores=np.ones(len(table), np.float32),
        descriptors=descriptors,
        image_size=image_size,
        normalise=True,
    )


def serialise_colmap(name: str, features: LocalFeatures) -> bytes:
    """Return the text of one image; `name` stands in errors.

    Raises
    ------
    DataError
        If descriptors have more than 128 dimensions.
    """
    if features.dim > DIM:
        raise DataError(
            f"{name}: descriptors have {features.dim} dimensions, COLMAP takes {DIM} at most; "
            "export in another format, or use a model with fewer"
        )
    # Digits enough to get every float32 back; COLMAP keeps no more.
    places = np.column_stack([features.keypoints.astype(np.float64) + 0.5, features.scales])
    lines = [f"{len(features)} {DIM}"]
    for (x, y, scale), values in zip(places.tolist(), encode(features.descriptors).tolist(), strict=True):
        lines.append(f"{x:.9g} {y:.9g} {scale:.9g} 0 {' '.join(map(str, values))}")
    return ("\n".join(lines) + "\n").encode("ascii")


def encode(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return unit descriptors (N, D), D at most 128, as COLMAP's (N, 128); see above."""
    n, dim = descriptors.shape
    if dim == DIM and (n == 0 or descriptors.min() >= 0):
        return np.minimum(np.rint(_LENGTH * descriptors), _LARGEST).astype(np.uint8)
    scale = _LENGTH / np.sqrt(1.0 + dim)
    wide = descriptors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)  # what was kept in few bits is not quite of length 1
    return _rounded(scale * np.sqrt(dim / DIM) + scale * (wide @ _basis(dim)))


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Round down, and up where the most is left over, such that every row keeps its sum.

    Rounding each value for itself would move rows along the constant vector, where their length is most of all:
    by more than the angles between them.
    """
    whole = np.floor(values)
    short = np.rint((values - whole).sum(axis=1)).astype(np.int64)
    rank = np.argsort(np.argsort(whole - values, axis=1, kind="stable"), axis=1)
    return np.clip(whole + (rank < short[:, None]), 0, _LARGEST).astype(np.uint8)


def _basis(dim: int) -> npt.NDArray[np.float64]:
    """Return `dim` orthonormal rows of 128 values, the constant row last and only for 128."""
    hadamard = np.ones((1, 1))
    while len(hadamard) < DIM:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    rows: npt.NDArray[np.float64] = np.roll(hadamard, -1, axis=0)[:dim] / np.sqrt(DIM)
    return rows


def _table(text: str, where: str) -> npt.NDArray[np.float64]:
    """Return all numbers (N, 4 + D) of a file of N features."""
    header, *lines = text.split("\n")
    sizes = header.split()
    if len(sizes) != 2 or not all(size.isdigit() and len(size) < 10 for size in sizes) or int(sizes[1]) == 0:
        raise FormatError(
            f"{where}: begins with {header[:40]!r}, wanted the number of features and their dimension"
        )
    n, width = int(sizes[0]), 4 + int(sizes[1])
    rows = [line.split() for line in lines]
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) != n:
        raise FormatError(f"{where}: states {n} features, has {len(rows)} lines of them; write the file again")
    for i, row in enumerate(rows):
        if len(row) != width:
            raise FormatError(
                f"{where}: line {i + 2} has {len(row)} numbers instead of {width}; write the file again"
            )
    try:
        return np.array(rows, np.float64).reshape(n, width)
    except ValueError as error:
        raise FormatError(f"{where}: {error}; write the file again") from error
