"""From maps of cells to `LocalFeatures`: the best over all levels jointly, and only those projected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.config import ExtractionConfig
from delf_engine.extraction.preparation import Prepared
from delf_engine.extraction.runtime import CellMap, Runtime
from delf_engine.extraction.selection import select
from delf_engine.features import LocalFeatures
from delf_engine.pyramid import cell_centres

__all__ = ["assemble", "joined_attention"]


def assemble(
    prepared: Prepared, maps: Sequence[CellMap], config: ExtractionConfig, runtime: Runtime
) -> LocalFeatures:
    """Choose cells, place them in the image, describe them.

    Parameters
    ----------
    prepared : Prepared
        The pyramid.
    maps : sequence of CellMap
        One for each of its levels.
    config : ExtractionConfig
        How many, from which score on, how far apart.
    runtime : Runtime
        That made the maps.
    """
    if not maps:
        return LocalFeatures.empty(prepared.image_size, runtime.dim)
    scores = np.concatenate([one.scores.reshape(-1) for one in maps])
    chosen = _chosen(scores, prepared, maps, config, runtime)
    starts = np.cumsum([0] + [one.scores.size for one in maps])
    keypoints = np.empty((len(chosen), 2), np.float32)
    scales = np.empty(len(chosen), np.float32)
    parts, places = [], []
    for i, (one, level) in enumerate(zip(maps, prepared.levels, strict=True)):
        mine = np.flatnonzero((chosen >= starts[i]) & (chosen < starts[i + 1]))
        cells = chosen[mine] - starts[i]
        keypoints[mine] = _centres(prepared, i, one, cells, runtime.stride)
        scales[mine] = 1 / level.scale
        parts.append((one, cells))
        places.append(mine)
    descriptors = np.empty((len(chosen), runtime.dim), np.float32)
    descriptors[np.concatenate(places)] = runtime.describe(parts)
    # A vector that projects to nothing has no direction, so it cannot be matched.
    keep = np.abs(descriptors).sum(1) > 0
    keypoints += np.asarray(prepared.offset, np.float32)
    return LocalFeatures(
        keypoints[keep], scales[keep], scores[chosen][keep], descriptors[keep], prepared.image_size
    )


def joined_attention(maps: Sequence[CellMap]) -> npt.NDArray[np.float32]:
    """Return the (h, w) maximum over levels, on the grid of the finest; one cell of 0 if there is no level."""
    import cv2

    if not maps:
        return np.zeros((1, 1), np.float32)
    height, width = np.max([one.scores.shape for one in maps], axis=0)
    resized = [cv2.resize(one.scores, (int(width), int(height))) for one in maps]
    return np.asarray(np.max(resized, axis=0), dtype=np.float32)


def _chosen(
    scores: npt.NDArray[np.float32],
    prepared: Prepared,
    maps: Sequence[CellMap],
    config: ExtractionConfig,
    runtime: Runtime,
) -> npt.NDArray[np.int64]:
    centres = sides = None
    if config.nms_iou is not None or config.spread is not None:  # else nobody asks where the cells lie
        centres = np.concatenate(
            [_centres(prepared, i, one, np.arange(one.scores.size), runtime.stride) for i, one in enumerate(maps)]
        )
        sides = np.concatenate(
            [
                np.full(one.scores.size, runtime.receptive_field / level.scale)
                for one, level in zip(maps, prepared.levels, strict=True)
            ]
        )
    return select(
        scores,
        config.max_features,
        config.min_score,
        centres=centres,
        sides=sides,
        nms_iou=config.nms_iou,
        spread=config.spread,
        spread_px=config.spread_px,
    )


def _centres(
    prepared: Prepared, level: int, cells: CellMap, indices: npt.NDArray[np.int64], stride: int
) -> npt.NDArray[np.float32]:
    rows, columns = np.divmod(indices, cells.scores.shape[1])
    at = np.stack([columns, rows], 1)
    return cell_centres(at, prepared.levels[level], prepared.region_size, stride=stride)
