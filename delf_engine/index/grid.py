"""The rigid grid of R-MAC: square regions of an image, of several sizes, that overlap by about 40 %.

References
----------
Tolias, Sicre, Jégou: Particular object retrieval with integral max-pooling of CNN activations. ICLR 2016.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.features import LocalFeatures

_LEVELS = 3
_OVERLAP = 0.4  # of neighbours at level 1


def rigid_grid(image_size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the regions that R-MAC samples.

    At level l = 1, 2, 3 regions are squares of side 2 min(width, height) / (l + 1), rounded down. Level 1 has m of
    them along the longer side, m >= 2 chosen so that neighbours share as close to 40 % of their side as possible
    (the fewer if two are as close), and 1 along the shorter; each level has one more in both directions. They are
    spread evenly from border to border, positions rounded down. A square image has l x l regions at level l.

    Parameters
    ----------
    image_size : (width, height)
        In pixels; the published code counts cells of the feature map instead.

    Returns
    -------
    (R, 4) int64
        x0, y0, x1, y1 in pixels, x1 and y1 exclusive; by level, then row, then column.

    Notes
    -----
    Code of the authors tries m up to 7 only, so that regions overlap less in images five times as long as wide,
    and leave gaps from seven times on; here m grows, as the paper says. Elsewhere both give the same regions.
    """
    width, height = image_size
    more = _more_along_the_longer_side(width, height)
    boxes = [np.empty((0, 4), np.int64)]
    for level in range(1, _LEVELS + 1):
        side = 2 * min(width, height) // (level + 1)
        if side == 0:
            break
        columns = _starts(width - side, level + (more if width > height else 0))
        rows = _starts(height - side, level + (more if height > width else 0))
        y, x = (one.ravel() for one in np.meshgrid(rows, columns, indexing="ij"))
        boxes.append(np.stack([x, y, x + side, y + side], axis=1))
    return np.concatenate(boxes)


def inside_regions(features: LocalFeatures) -> npt.NDArray[np.bool_]:
    """Return whether each feature lies in each region of its image's grid, (R, N) bool.

    A region ends at the edges of pixels and a keypoint is the centre of one, so that (x, y) lies inside if
    x0 <= x + 0.5 < x1, and the same holds for y.
    """
    boxes = rigid_grid(features.image_size)
    at = features.keypoints[None].astype(np.float64) + 0.5
    return np.all((boxes[:, None, :2] <= at) & (at < boxes[:, None, 2:]), axis=2)


def _more_along_the_longer_side(width: int, height: int) -> int:
    """Return m - 1, or 0 for a square image: neighbours of level 1 are (longer - shorter) / (m - 1) apart."""
    shorter = min(width, height)
    apart = (max(width, height) - shorter) / shorter  # of first and last region, in sides
    if apart == 0:
        return 0
    guess = apart / (1 - _OVERLAP)
    near = [max(1, int(guess)), int(guess) + 1]
    return min(near, key=lambda steps: (round(abs(1 - apart / steps - _OVERLAP), 9), steps))


def _starts(room: int, count: int) -> npt.NDArray[np.int64]:
    if count == 1:
        return np.zeros(1, np.int64)
    return np.arange(count) * room // (count - 1)
