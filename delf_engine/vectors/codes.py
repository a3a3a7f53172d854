"""Binary codes of global vectors, and a search that looks at the codes first.

Gong, Lazebnik, CVPR 2011 (ITQ).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import MismatchError
from delf_engine.support.arrays import check_array
from delf_engine.vectors.checks import Indices, Scores, check_count, check_vectors, normalized, unit_vectors
from delf_engine.vectors.neighbors import best_first, candidate_products
from delf_engine.vectors.whitening import Whitening, pca_whitening

Codes = npt.NDArray[np.uint8]

_ITERATIONS = 50  # as published


def sign_codes(vectors: npt.ArrayLike) -> Codes:
    """Return one bit a component, set where it is above 0, (N, ceil(D / 8)) uint8, the first in the highest bit.

    Parameters
    ----------
    vectors : (N, D) array
        Best centred: whitened, or projected by `itq`.
    """
    return np.packbits(check_vectors("vectors", vectors) > 0, axis=1)


def itq(vectors: npt.ArrayLike, bits: int, *, seed: int = 0) -> Whitening:
    """Fit a projection whose `sign_codes` lose least: PCA, then the rotation that brings vectors closest to signs.

    Parameters
    ----------
    vectors : (N, D) array
    bits : int
        Bits of a code, at most min(N - 1, D); a `ConfigError` if the vectors span fewer dimensions.
    seed : int
        Of the rotation that 50 iterations start from.

    Returns
    -------
    Whitening
        ``sign_codes(projection(vectors))`` are the codes.
    """
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(check_count("seed", seed, 0))
    pca = pca_whitening(vectors, bits, power=0)
    projected = pca(vectors).astype(np.float64)
    # Own iterations: the rotation of faiss.ITQMatrix (1.15) is hardly better than the one that it starts from.
    with threadpool_limits(1):  # with several, BLAS adds in an order that depends on their number
        rotation = np.linalg.qr(rng.normal(size=(bits, bits)))[0]
        for _ in range(_ITERATIONS):
            signs = np.where(projected @ rotation > 0, 1.0, -1.0)
            left, _, right = np.linalg.svd(projected.T @ signs)
            rotation = left @ right
        return Whitening(pca.mean, pca.matrix @ rotation)


def hamming_then_exact(
    queries: npt.ArrayLike,
    vectors: npt.ArrayLike,
    query_codes: npt.ArrayLike,
    codes: npt.ArrayLike,
    *,
    keep: int,
    top: int,
) -> tuple[Scores, Indices]:
    """Return the best vectors by cosine among those whose codes differ least from the query's.

    Parameters
    ----------
    queries, vectors : (M, D) and (N, D) array
    query_codes, codes : (M, B) and (N, B) array of uint8
    keep : int
        Vectors that the codes leave for each query; of equal distances, the lower indices.
    top : int
        Results of each query.

    Returns
    -------
    scores, indices : (M, min(top, keep, N)) float32 and int64
    """
    import faiss

    given = check_vectors("vectors", vectors)
    asked = unit_vectors("queries", queries, given.shape[1])
    bits = check_array("codes", codes, np.uint8, (len(given), None), error=MismatchError)
    asked_bits = check_array(
        "query_codes", query_codes, np.uint8, (len(asked), bits.shape[1]), error=MismatchError
    )
    keep, top = min(check_count("keep", keep), len(given)), check_count("top", top)
    if not bits.shape[1]:
        raise MismatchError("codes must have at least one byte")
    if not keep or not len(asked):
        return np.empty((len(asked), min(top, keep)), np.float32), np.empty((len(asked), min(top, keep)), np.int64)
    index = faiss.IndexBinaryFlat(8 * bits.shape[1])
    index.add(bits)
    _, kept = index.search(asked_bits, keep)
    rows, place = np.unique(kept, return_inverse=True)  # only these need unit length
    products = candidate_products(asked, normalized(given[rows]), place.reshape(kept.shape))
    return best_first(products, kept, top)
