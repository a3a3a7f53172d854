"""Text files that COLMAP's ``feature_importer`` reads: one ``NAME.txt`` for each image.

The first line is ``N 128``, each other ``X Y SCALE ORIENTATION D_1 ... D_128`` with the D between 0 and 255.
COLMAP puts the centre of the top left pixel at (0.5, 0.5) (COLMAP, doc/database.rst), we at (0, 0): keypoints are
shifted by half a pixel. Orientations are written as 0; scores are not in the file, only their order.

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

import numpy as np
import numpy.typing as npt
from scipy.linalg import hadamard

from delf_engine.errors import DataError
from delf_engine.features import LocalFeatures

#: Dimension of the descriptors that COLMAP reads.
DIM = 128

_LENGTH = 512.0  # of a descriptor in COLMAP
_LARGEST = 255


def serialise_colmap(name: str, features: LocalFeatures) -> bytes:
    """Return the text of one image; `name` stands in errors.

    A `DataError` if descriptors have more than 128 dimensions.
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
    rows: npt.NDArray[np.float64] = np.roll(hadamard(DIM, float), -1, axis=0)[:dim] / np.sqrt(DIM)
    return rows
