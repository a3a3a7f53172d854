"""Regions without a detector: the connected parts of the attention map that stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError
from delf_engine.regions.boxes import Boxes, box_iou

__all__ = ["attention_boxes"]

# Boxes of a higher IoU are the same region.
_SAME = 0.9


def attention_boxes(
    score_map: npt.NDArray[np.floating],
    image_size: tuple[int, int],
    *,
    thresholds: Sequence[float] = (0.5, 0.7, 0.85, 0.95),
    min_area: float = 0.01,
    max_boxes: int = 10,
) -> Boxes:
    """Return boxes around the connected blobs of an attention map above several thresholds.

    Parameters
    ----------
    score_map : (h, w) float
        Attention scores of the cells of one pyramid level, which share the image evenly among them. Cells that
        are NaN or infinite belong to no blob.
    image_size : (width, height)
        Of the image in pixels.
    thresholds : sequence of float
        Quantiles of the map's own scores, in [0, 1), so that they carry over from one checkpoint to another. A
        blob is made of cells *above* a quantile that touch by a side or a corner.
    min_area : float
        Blobs whose box covers a smaller part of the image are left out, in [0, 1].
    max_boxes : int
        At most this many.

    Returns
    -------
    (R, 4) float32
        x0, y0, x1, y1 in pixels. The highest mean attention inside a blob first; equal ones by area of the box,
        the larger first, then by y0 and x0. Of boxes with IoU above 0.9 only the first is kept. None, (0, 4), if
        the map is empty or flat, thus also if it has one cell: nothing stands out in it.

    Raises
    ------
    ConfigError
        If an option is out of range.
    FeatureError
        If the map does not have two dimensions.
    """
    if not all(0 <= q < 1 for q in thresholds) or not 0 <= min_area <= 1 or max_boxes < 1:
        raise ConfigError(
            "attention boxes need thresholds in [0, 1), min_area in [0, 1] and max_boxes >= 1, got "
            f"{tuple(thresholds)}, {min_area} and {max_boxes}"
        )
    scores = np.asarray(score_map, np.float64)
    if scores.ndim != 2:
        raise FeatureError(f"an attention map has shape (h, w), got {scores.shape}")
    finite = np.isfinite(scores)
    if not finite.any():
        return np.empty((0, 4), np.float32)
    limits = np.quantile(scores[finite], thresholds) if len(thresholds) else np.empty(0)
    found = [_blobs(scores, finite & (scores > limit)) for limit in limits]
    table = np.concatenate([np.empty((0, 5)), *found])
    table = table[np.prod(table[:, 2:4] - table[:, :2], axis=1) >= min_area * scores.size]
    return _best(table, scores.shape, image_size, max_boxes)


def _blobs(scores: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return x0, y0, x1, y1 in cells and the mean score of each blob, (B, 5)."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sums = np.bincount(labels.ravel(), weights=np.where(mask, scores, 0).ravel(), minlength=count)[1:]
    x, y, width, height, cells = stats[1:, :5].T.astype(np.float64)
    return np.stack([x, y, x + width, y + height, sums / cells], axis=1)


def _best(
    table: npt.NDArray[np.float64], shape: tuple[int, ...], image_size: tuple[int, int], max_boxes: int
) -> Boxes:
    x0, y0, x1, y1, mean = table.T
    table = table[np.lexsort((x0, y0, -(x1 - x0) * (y1 - y0), -mean))]
    cell = np.array(image_size) / (shape[1], shape[0])
    boxes = (table[:, :4] * np.tile(cell, 2)).astype(np.float32)
    kept: list[int] = []
    for i, box in enumerate(boxes):
        if len(kept) == max_boxes:
            break
        if (box_iou(box, boxes[kept]) <= _SAME).all():
            kept.append(i)
    return boxes[kept]
