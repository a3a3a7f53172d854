"""What all formats need to make `LocalFeatures` of arrays that other software has written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError, FormatError
from delf_engine.features import LocalFeatures

__all__ = ["local_features", "smallest_size"]


def local_features(
    where: str,
    *,
    keypoints: npt.NDArray[Any],
    scales: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    descriptors: npt.NDArray[Any],
    image_size: tuple[int, int] | None,
    normalise: bool,
) -> LocalFeatures:
    """Return the features sorted by descending score (equal scores keep their order), checked.

    Parameters
    ----------
    where : str
        Names the file, or the part of it, in errors.
    keypoints, scales, scores, descriptors : arrays
        As in `LocalFeatures`, in any order.
    image_size : (width, height) or None
        None: `smallest_size`.
    normalise : bool
        Divide every descriptor by its L2 norm.

    Raises
    ------
    FormatError
        If they are not valid features, or a descriptor that is to be normalised is zero.
    """
    if normalise:
        descriptors = _unit(descriptors, where)
    with np.errstate(invalid="ignore"):
        unsorted = scores.ndim == 1 and bool((np.diff(scores) > 0).any())
    if unsorted and len(keypoints) == len(scales) == len(descriptors) == len(scores):
        order = np.argsort(-scores.astype(np.float64), kind="stable")
        keypoints, scales, scores, descriptors = (a[order] for a in (keypoints, scales, scores, descriptors))
    try:
        return LocalFeatures(keypoints, scales, scores, descriptors, image_size or smallest_size(keypoints))
    except FeatureError as error:
        raise FormatError(
            f"{where}: {error}; write the file again, or read it with normalise=True if only the length of its "
            "descriptors is wrong"
        ) from error


def smallest_size(keypoints: npt.NDArray[Any]) -> tuple[int, int]:
    """Return width and height of the smallest image that holds all keypoints, for files that state none.

    A pixel reaches half a pixel beyond its centre, and the centre of the top left one is (0, 0).
    """
    if keypoints.ndim != 2 or keypoints.size == 0 or not np.isfinite(keypoints).all():
        return 1, 1  # nothing to hold, or no valid keypoints, which the caller finds out
    width, height = (max(1, int(np.ceil(float(x) + 0.5))) for x in keypoints.max(axis=0)[:2])
    return width, height


def _unit(descriptors: npt.NDArray[Any], where: str) -> npt.NDArray[np.float32]:
    wide = np.asarray(descriptors, np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    if (norms == 0).any():
        raise FormatError(
            f"{where}: descriptor {int(np.argmin(norms))} is zero and has no direction; leave it out"
        )
    with np.errstate(invalid="ignore"):  # infinite values become NaN, which are refused as such
        unit: npt.NDArray[np.float32] = (wide / norms[:, None]).astype(np.float32)
    return unit
