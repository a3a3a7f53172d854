"""Which cells become features: the best by attention, over all levels jointly, near-copies left out if asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError

__all__ = ["select", "select_top"]

Floats = npt.NDArray[np.floating]

# Of `max_features`: how many candidates are looked at first. More are taken if too few of them are kept.
_FIRST_LOOK = 4

_MOST_FIELDS = 1_000_000


def select_top(scores: npt.NDArray[np.float32], max_features: int, min_score: float) -> npt.NDArray[np.int64]:
    """Return the indices of the highest scores, in descending order.

    Parameters
    ----------
    scores : (N,) float32
        NaN is never selected.
    max_features : int
        At most this many.
    min_score : float
        Only scores at or above it.

    Returns
    -------
    (M,) int64
        Equal scores stand in the order of their index, so the result does not depend on the sort.
    """
    eligible = np.flatnonzero(scores >= min_score)
    order = np.argsort(-scores[eligible], kind="stable")[:max_features]
    return eligible[order]


def select(
    scores: npt.NDArray[np.float32],
    max_features: int,
    min_score: float,
    *,
    centres: Floats | None = None,
    sides: Floats | None = None,
    nms_iou: float | None = None,
    spread: int | None = None,
    spread_px: float = 64.0,
) -> npt.NDArray[np.int64]:
    """Return the indices of the highest scores that do not repeat one another, in descending order.

    Cells are visited by descending score, equal ones by index, and each is kept unless a kept one stands in its
    way. Without `nms_iou` and `spread` this is `select_top`.

    Parameters
    ----------
    scores : (N,) float32
        NaN is never selected.
    max_features : int
        At most this many, at least 1.
    min_score : float
        Only scores at or above it.
    centres : (N, 2) float32 or float64, or None
        x, y of each cell in pixels of the image, (0, 0) the centre of the top left one. Needed by `nms_iou` and
        `spread`.
    sides : (N,) float32 or float64, or None
        Side of the square around the centre that the cell sees, its receptive field, in pixels of the image.
        Needed by `nms_iou`.
    nms_iou : float or None
        In [0, 1]. A cell is left out if the intersection over union of its square and that of a kept cell is
        *above* it, as in torchvision's ``nms``. 1, as in the published DELF, leaves out nothing, not even
        squares that are the same; 0 leaves out all that overlap.
    spread : int or None
        At most this many cells are kept in each field of a grid over the image.
    spread_px : float
        Side of a grid field in pixels of the image; the grid begins at the image's top left corner.

    Returns
    -------
    (M,) int64

    Raises
    ------
    ConfigError
        If `nms_iou`, `spread` or `spread_px` is out of range.
    FeatureError
        If centres or sides that are needed are missing, of the wrong shape, not finite, or negative sides.

    References
    ----------
    Noh et al., Large-Scale Image Retrieval with Attentive Deep Local Features, ICCV 2017 (suppression).
    """
    _check_options(nms_iou, spread, spread_px)
    by_overlap = nms_iou is not None and nms_iou < 1
    if not by_overlap and spread is None:
        return select_top(scores, max_features, min_score)
    n = len(scores)
    centres = _checked("centres", centres, (n, 2))
    sides = _checked("sides", sides, (n,)) if by_overlap else None

    eligible = np.flatnonzero(scores >= min_score)
    limit = min(max_features, len(eligible))
    look = _FIRST_LOOK * limit
    while limit:
        order = eligible[_highest(scores[eligible], look)]
        kept = order[
            _walk(
                centres[order],
                None if sides is None else sides[order],
                limit,
                iou=1.0 if nms_iou is None else nms_iou,
                spread=spread,
                spread_px=spread_px,
            )
        ]
        # What the better cells keep does not depend on those behind them, so looking further adds to the end.
        if len(kept) == limit or len(order) == len(eligible):
            return kept
        look = 4 * len(order)
    return eligible


def _highest(scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Return the places of the `k` highest scores and of those equal to the last, sorted as `select_top` does."""
    places = np.arange(len(scores))
    if k < len(scores):
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        places = np.flatnonzero(scores >= last)
    return places[np.argsort(-scores[places], kind="stable")]


def _walk(
    centres: npt.NDArray[np.float64],
    sides: npt.NDArray[np.float64] | None,
    limit: int,
    *,
    iou: float,
    spread: int | None,
    spread_px: float,
) -> npt.NDArray[np.int64]:
    """Return the places of the candidates that are kept, in order."""
    from delf_engine.extraction.kernels import pick

    cells = np.empty(0, np.int64) if spread is None else _grid_cells(centres, spread_px)
    out = np.empty(limit, np.int64)
    return out[: pick(centres, np.empty(0) if sides is None else sides, iou, cells, spread or 0, out)]


def _grid_cells(centres: npt.NDArray[np.float64], spread_px: float) -> npt.NDArray[np.int64]:
    """Return the number of each centre's grid field, from 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        fields = np.floor((centres + 0.5) / spread_px)
        column, row = (fields - fields.min(axis=0)).T
        width, height = column.max() + 1, row.max() + 1
        if width * height <= _MOST_FIELDS:
            return (row * width + column).astype(np.int64)
    # Centres far apart: number those fields only that hold one.
    columns, x = np.unique(fields[:, 0], return_inverse=True)
    _, y = np.unique(fields[:, 1], return_inverse=True)
    return np.unique(y * len(columns) + x, return_inverse=True)[1].astype(np.int64)


def _check_options(nms_iou: float | None, spread: int | None, spread_px: float) -> None:
    if nms_iou is not None and not 0 <= nms_iou <= 1:
        raise ConfigError(f"nms_iou must be between 0 and 1, or none for no suppression; got {nms_iou}")
    if spread is not None and spread < 1:
        raise ConfigError(f"spread must be at least 1, or none for no limit; got {spread}")
    if not spread_px > 0:
        raise ConfigError(f"spread_px must be above 0, got {spread_px}")


def _checked(name: str, value: Floats | None, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if value is None or value.shape != shape:
        got = "nothing" if value is None else f"shape {value.shape}"
        raise FeatureError(f"{name} of every cell are needed to leave out near-copies: shape {shape}, got {got}")
    if not np.isfinite(value).all():
        raise FeatureError(f"{name} contain NaN or infinite values")
    if name == "sides" and (value < 0).any():
        raise FeatureError("sides must not be negative")
    return value.astype(np.float64)
