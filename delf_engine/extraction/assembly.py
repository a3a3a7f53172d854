"""From maps of cells to `LocalFeatures`: the best over all levels jointly, and only those projected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig
from delf_engine.extraction.decoding import Pyramid
from delf_engine.extraction.runtime import CellMap, Runtime
from delf_engine.features import LocalFeatures
from delf_engine.pyramid import cell_centres


def assemble(
    pyramid: Pyramid, maps: Sequence[CellMap], config: ExtractionConfig, runtime: Runtime
) -> LocalFeatures:
    """Choose cells of the maps, one a level, place them in the image, and describe them with the maps' runtime."""
    if not maps:
        return LocalFeatures.empty(pyramid.image_size, runtime.dim)
    seen = zip(maps, pyramid.textured, strict=True)
    scores = np.concatenate([np.where(mask, one.scores, np.nan).reshape(-1) for one, mask in seen])
    chosen = select_top(scores, config.max_features, config.min_score)
    starts = np.cumsum([0] + [one.scores.size for one in maps])
    descriptors = np.empty((len(chosen), runtime.dim), np.float32)
    places = [np.flatnonzero((chosen >= first) & (chosen < last)) for first, last in pairwise(starts)]
    parts = [(one, chosen[mine] - first) for one, mine, first in zip(maps, places, starts[:-1], strict=True)]
    descriptors[np.concatenate(places)] = runtime.describe(parts)
    shapes = [one.scores.shape for one in maps]
    return placed(pyramid, shapes, chosen, scores[chosen], descriptors, runtime)


def placed(
    pyramid: Pyramid,
    shapes: Sequence[tuple[int, ...]],
    chosen: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    descriptors: npt.NDArray[np.float32],
    runtime: Runtime,
) -> LocalFeatures:
    """Return the features of (K,) chosen cells, counted through the maps of all levels, of these (h, w)."""
    starts = np.cumsum([0] + [math.prod(shape) for shape in shapes])
    keypoints = np.empty((len(chosen), 2), np.float32)
    scales = np.empty(len(chosen), np.float32)
    for level, shape, (first, last) in zip(pyramid.levels, shapes, pairwise(starts), strict=True):
        mine = np.flatnonzero((chosen >= first) & (chosen < last))
        at = np.stack(np.divmod(chosen[mine] - first, shape[1])[::-1], axis=1)  # x, y
        keypoints[mine] = cell_centres(
            at, level, pyramid.region_size, stride=runtime.stride, offset=runtime.offset
        )
        scales[mine] = 1 / level.scale
    # A vector that projects to nothing has no direction, so it cannot be matched.
    keep = np.abs(descriptors).sum(1) > 0
    keypoints += np.asarray(pyramid.offset, np.float32)
    return LocalFeatures(keypoints[keep], scales[keep], scores[keep], descriptors[keep], pyramid.image_size)


def joined_attention(maps: Sequence[CellMap]) -> npt.NDArray[np.float32]:
    """Return the (h, w) maximum over levels, on the grid of the finest; one cell of 0 if there is no level."""
    import cv2

    if not maps:
        return np.zeros((1, 1), np.float32)
    height, width = np.max([one.scores.shape for one in maps], axis=0)
    resized = [cv2.resize(one.scores, (int(width), int(height))) for one in maps]
    return np.asarray(np.max(resized, axis=0), dtype=np.float32)


def select_top(scores: npt.NDArray[np.float32], max_features: int, min_score: float) -> npt.NDArray[np.int64]:
    """Return the indices, (M,) int64, of the highest scores, in descending order: at most `max_features`.

    Scores, (N,) float32, below `min_score` and NaN are never selected. Equal ones stand in the order of their
    index, so the result does not depend on the sort.
    """
    eligible = np.flatnonzero(scores >= min_score)
    order = np.argsort(-scores[eligible], kind="stable")[:max_features]
    return eligible[order]
