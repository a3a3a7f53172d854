"""Whitening of global vectors: by PCA, or learned from pairs of photographs that show the same.

Fit it on other photographs than those that are searched or measured.

Jégou, Chum, ECCV 2012 (PCA whitening). Mikolajczyk, Matas, ICCV 2007, and Radenović et al., TPAMI 2018 (learned).
Tolias et al., ECCV 2020 (shrinkage).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, MismatchError
from delf_engine.support.arrays import check_array
from delf_engine.vectors.checks import Vectors, check_count, check_number, check_vectors, normalized

Matrix = npt.NDArray[np.float64]

_ROWS = 64  # of every product: one shape, so that bits do not depend on how many vectors come together


@dataclass(frozen=True, eq=False)
class Whitening:
    """A projection of global vectors, ``normalize((x - mean) @ matrix)``; its two arrays are all there is to save.

    Parameters
    ----------
    mean : (D,) array
        Kept as float64, as is the matrix.
    matrix : (D, K) array
    """

    mean: Matrix
    matrix: Matrix

    def __post_init__(self) -> None:
        mean = check_array("mean", self.mean, np.float64, (None,), error=ConfigError)
        matrix = check_array("matrix", self.matrix, np.float64, (len(mean), None), error=ConfigError)
        if not matrix.size:
            raise ConfigError(f"matrix must have at least one row and column, got shape {matrix.shape}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "matrix", matrix)

    def __call__(self, vectors: npt.ArrayLike) -> Vectors:
        """Return vectors, (N, D), projected and L2-normalised, (N, K) float32.

        A vector of zeros, which an image without features has, stays one. Each vector has the same bits in any
        batch and with any number of threads.
        """
        from threadpoolctl import threadpool_limits

        given = check_vectors("vectors", vectors, len(self.mean))
        out = np.empty((len(given), self.matrix.shape[1]), np.float64)
        block = np.zeros((_ROWS, len(self.mean)))
        with threadpool_limits(1):  # with several, BLAS adds in an order that depends on their number
            for start in range(0, len(given), _ROWS):
                rows = given[start : start + _ROWS]
                np.subtract(rows, self.mean, out=block[: len(rows)])
                out[start : start + _ROWS] = (block @ self.matrix)[: len(rows)]
        out[~given.any(axis=1)] = 0
        return normalized(out)


def pca_whitening(vectors: npt.ArrayLike, dim: int, *, power: float = 1.0) -> Whitening:
    """Fit a PCA whitening: the `dim` directions of most variance, each divided by its deviation.

    Parameters
    ----------
    vectors : (N, D) array
        Float32 is enough; the fit is in float64. N vectors span at most min(N - 1, D) directions.
    dim : int
        Dimensions K that are kept; a `ConfigError` if the vectors span fewer.
    power : float
        From 0 (PCA alone, no whitening) to 1 (unit variances): deviations are raised to it.
    """
    from threadpoolctl import threadpool_limits

    given = check_vectors("vectors", vectors).astype(np.float64)
    wanted, power = check_count("dim", dim), check_number("power", power, 0, 1)
    if not len(given):
        raise ConfigError("whitening cannot be fitted to no vectors; give at least 2")
    mean = given.mean(axis=0)
    given -= mean
    with threadpool_limits(1):
        variances, directions = _principal(given, wanted)
    return Whitening(mean, directions * variances ** (-power / 2))


def learned_whitening(vectors: npt.ArrayLike, pairs: npt.ArrayLike, dim: int) -> Whitening:
    """Fit a discriminative projection: differences within pairs are whitened, then PCA keeps what tells apart.

    Parameters
    ----------
    vectors : (N, D) array
    pairs : (P, 2) array of int
        Rows of `vectors` that show the same. Their differences must span all D dimensions, so P is at least D, or
        it is a `ConfigError`: with fewer, apply a `pca_whitening` to fewer dimensions first.
    dim : int
        Dimensions K that are kept, as in `pca_whitening`.
    """
    from scipy.linalg import cholesky, solve_triangular
    from threadpoolctl import threadpool_limits

    given, wanted = check_vectors("vectors", vectors).astype(np.float64), check_count("dim", dim)
    rows = check_array("pairs", pairs, np.int64, (None, 2), error=MismatchError)
    if rows.size and not 0 <= rows.min() <= rows.max() < len(given):
        raise MismatchError(f"pairs name rows {rows.min()} to {rows.max()} of {len(given)} vectors")
    difference = given[rows[:, 0]] - given[rows[:, 1]]
    with threadpool_limits(1):
        spread = difference.T @ difference / max(1, len(rows))
        spanned = _rank(np.linalg.eigvalsh(spread), *difference.shape)
        if spanned < given.shape[1]:
            raise ConfigError(
                f"{len(rows)} pairs differ in {spanned} of {given.shape[1]} dimensions; give more pairs, or apply "
                f"a PCA whitening to {max(1, spanned)} dimensions or fewer first"
            )
        within = solve_triangular(cholesky(spread, lower=True), np.eye(len(spread)), lower=True).T  # (D, D)
        mean = given[rows[:, 0]].mean(axis=0)
        _, directions = _principal((given - mean) @ within, wanted)
        return Whitening(mean, within @ directions)


def _principal(centred: Matrix, wanted: int) -> tuple[Matrix, Matrix]:
    """Return the largest variances, (K,), and their directions, (D, K), whose largest component is positive."""
    few = len(centred) < centred.shape[1]  # their products are the smaller matrix, of the same eigenvalues
    variances, directions = np.linalg.eigh((centred @ centred.T if few else centred.T @ centred) / len(centred))
    spanned = _rank(variances, *centred.shape)
    if wanted > spanned:
        raise ConfigError(
            f"{len(centred)} vectors of {centred.shape[1]} dimensions vary in {spanned}, {wanted} are wanted; "
            "give more vectors, or ask for fewer dimensions"
        )
    variances, directions = variances[::-1][:wanted], directions[:, ::-1][:, :wanted]
    if few:
        directions = centred.T @ directions / np.sqrt(variances * len(centred))
    strongest = np.abs(directions).argmax(axis=0)
    return variances, directions * np.sign(directions[strongest, np.arange(wanted)])


def _rank(variances: npt.NDArray[np.floating], count: int, dim: int) -> int:
    """Return how many eigenvalues are more than rounding."""
    return int((variances > max(0.0, variances.max()) * max(count, dim) * np.finfo(np.float64).eps).sum())
