"""Query-adaptive matching: the part of an image that best fits the query, put together of region vectors.

Cao et al.: Where to focus: Query adaptive matching for instance retrieval using convolutional feature maps. 2016.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import MismatchError
from delf_engine.support.arrays import check_array
from delf_engine.vectors.checks import Scores, Vectors, unit_vectors
from delf_engine.vectors.neighbors import candidate_products


def region_scores(query: npt.ArrayLike, regions: npt.ArrayLike, *, combine: bool = True) -> Scores:
    """Return how well each image fits a query of one or several regions, (N,) float32, at most 1.

    Parameters
    ----------
    query : (Q, D) array
        The score is the mean over the regions of the query; those of zeros are left out.
    regions : (N, R, D) array
        R regions an image; zeros fill up where an image has fewer.
    combine : bool
        Whether several regions together may answer a region of the query: the largest cosine to any sum of regions
        with weights of 0 or more, by non-negative least squares. Otherwise the best single region answers.

    Returns
    -------
    (N,) float32
        0 for an image without regions, and for all where the query has none.
    """
    from threadpoolctl import threadpool_limits

    asked = unit_vectors("query", query)
    given = check_array("regions", regions, np.float32, (None, None, None))
    if given.shape[2] != asked.shape[1]:
        raise MismatchError(f"regions have {given.shape[2]} dimensions, the query {asked.shape[1]}")
    asked = asked[asked.any(axis=1)]
    scores = np.zeros(len(given), np.float32)
    with threadpool_limits(1):  # with several, BLAS adds in an order that depends on their number
        for i, image in enumerate(given):
            units = unit_vectors("regions", image[image.any(axis=1)])
            if len(units) and len(asked):
                scores[i] = _fit(asked, units, combine)
    return scores


def _fit(asked: Vectors, units: Vectors, combine: bool) -> float:
    """Return the mean over regions of the query of the best cosine that the image's regions reach."""
    everything = np.broadcast_to(np.arange(len(units)), (len(asked), len(units)))
    best = candidate_products(asked, units, everything).max(axis=1).astype(np.float64)
    if combine:
        best = np.maximum(best, [_to_cone(region, units) for region in asked])
    return float(min(best.mean(), 1.0))


def _to_cone(region: Vectors, units: Vectors) -> float:
    """Return the cosine of a unit vector, (D,), to its projection on the cone of `units`; -1 if that is 0."""
    from scipy.optimize import nnls

    try:
        weights, _ = nnls(units.T.astype(np.float64), region.astype(np.float64))
    except RuntimeError:  # no end was reached, of many equal regions: the best single one stands
        return -1.0
    nearest = weights @ units.astype(np.float64)
    length = np.sqrt(np.square(nearest).sum())
    return float((nearest * region).sum() / length) if length > 0 else -1.0
