"""The rigid grid of R-MAC: square regions of several sizes that overlap by about 40 %."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.regions.boxes import Boxes

__all__ = ["rigid_grid"]


def rigid_grid(
    image_size: tuple[int, int], levels: int = 3, overlap: float = 0.4, *, whole: bool = False
) -> Boxes:
    """Return the regions that R-MAC samples.

    At level l = 1, 2, ... regions are squares of side 2 min(width, height) / (l + 1), rounded down. Level 1 has m
    of them along the longer side, m >= 2 chosen so that neighbours share a part of their side as close as
    possible to `overlap` (the fewer if two are as close), and 1 along the shorter; each level has one more in both
    directions. They are spread evenly from border to border, positions rounded down. A square image has
    l x l regions at level l.

    Parameters
    ----------
    image_size : (width, height)
        In pixels; the published code counts cells of the feature map instead.
    levels : int
        3 as published. Levels whose regions would be smaller than one pixel are left out.
    overlap : float
        Of neighbours at level 1, in [0, 1).
    whole : bool
        Put the whole image first, as R-MAC does. (Level 1 of a square image is the whole image once more.)

    Returns
    -------
    (R, 4) float32
        x0, y0, x1, y1 in pixels, by level, then row, then column.

    Raises
    ------
    ConfigError
        If an argument is out of range.

    Notes
    -----
    Code of the authors tries m up to 7 only, so that regions overlap less in images five times as long as wide,
    and leave gaps from seven times on; here m grows, as the paper says. Elsewhere both give the same regions.

    References
    ----------
    Tolias, Sicre, Jégou, Particular Object Retrieval with Integral Max-Pooling of CNN Activations, ICLR 2016.
    """
    width, height = image_size
    if width < 1 or height < 1:
        raise ConfigError(f"image_size must be positive, got {image_size}")
    if levels < 1 or not 0 <= overlap < 1:
        raise ConfigError(f"a grid needs levels >= 1 and 0 <= overlap < 1, got {levels} and {overlap}")
    more = _more_along_the_longer_side(width, height, overlap)
    boxes = [np.array([[0, 0, width, height]])] if whole else []
    for level in range(1, levels + 1):
        side = 2 * min(width, height) // (level + 1)
        if side == 0:
            break
        columns = _starts(width - side, level + (more if width > height else 0))
        rows = _starts(height - side, level + (more if height > width else 0))
        y, x = (one.ravel() for one in np.meshgrid(rows, columns, indexing="ij"))
        boxes.append(np.stack([x, y, x + side, y + side], axis=1))
    return np.concatenate(boxes).astype(np.float32)


def _more_along_the_longer_side(width: int, height: int, overlap: float) -> int:
    """Return m - 1, or 0 for a square image: neighbours of level 1 are (longer - shorter) / (m - 1) apart."""
    shorter = min(width, height)
    apart = (max(width, height) - shorter) / shorter  # of first and last region, in sides
    if apart == 0:
        return 0
    guess = apart / (1 - overlap)
    near = [max(1, int(guess)), int(guess) + 1]
    return min(near, key=lambda steps: (round(abs(1 - apart / steps - overlap), 9), steps))


def _starts(room: int, count: int) -> npt.NDArray[np.int64]:
    if count == 1:
        return np.zeros(1, np.int64)
    return np.arange(count) * room // (count - 1)
