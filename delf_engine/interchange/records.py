"""What all formats need to make `LocalFeatures` of arrays that other software has written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError, FormatError
from delf_engine.features import LocalFeatures


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

    Arrays have the shapes of `LocalFeatures`, in any order of features. Without an image size it is that of the
    smallest image that holds all keypoints; `normalise` divides every descriptor by its L2 norm. A `FormatError`,
    which names `where`, if they are not valid features, or a descriptor that is to be normalised is zero.
    """
    if normalise:
        wide = np.asarray(descriptors, np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        if (norms == 0).any():
            raise FormatError(
                f"{where}: descriptor {int(np.argmin(norms))} is zero and has no direction; leave it out"
            )
        with np.errstate(invalid="ignore"):  # infinite values become NaN, which are refused as such
            descriptors = (wide / norms[:, None]).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    keypoints, scales, scores, descriptors = (a[order] for a in (keypoints, scales, scores, descriptors))
    try:
        return LocalFeatures(keypoints, scales, scores, descriptors, image_size or _smallest_size(keypoints))
    except FeatureError as error:
        raise FormatError(
            f"{where}: {error}; write the file again, or read it with normalise=True if only the length of its "
            "descriptors is wrong"
        ) from error


def _smallest_size(keypoints: npt.NDArray[Any]) -> tuple[int, int]:
    """Return width and height of the smallest image that holds all keypoints.

    A pixel reaches half a pixel beyond its centre, and the centre of the top left one is (0, 0).
    """
    if not len(keypoints) or not np.isfinite(keypoints).all():
        return 1, 1  # nothing to hold, or no valid keypoints, which the caller finds out
    width, height = (max(1, int(np.ceil(float(x) + 0.5))) for x in keypoints.max(axis=0))
    return width, height
