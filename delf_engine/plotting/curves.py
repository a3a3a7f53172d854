"""How far probabilities can be trusted, and how well scores tell pairs apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.evaluation.calibration_figures import binned, expected_calibration_error, roc_auc
from delf_engine.plotting.canvas import GAP, INK, QUIET, RULE, canvas, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 640
_SQUARE = 520  # of the diagram
_COUNTS_HEIGHT = 110
_LEFT, _FOOT, _CAPTION_HEIGHT = 72, 52, 34
_BINS = 10  # of equal width
_BLUE = "#0969da"


def draw_reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Figure:
    """Draw a reliability diagram: how often pairs with a stated probability are really of the same place.

    Each bar is the share of true pairs in a bin of probabilities, the dot on it stands at the bin's mean
    probability; on the diagonal both agree. Below it the number of pairs in each bin, on a logarithmic scale, and
    the expected calibration error.

    Parameters
    ----------
    probabilities : (N,) float
        0 to 1.
    labels : (N,) bool, or 0 and 1

    Raises
    ------
    DataError
        If there is no pair, the lengths disagree, a probability lies outside 0 to 1, or a label is neither true
        nor false.
    """
    values, truth, of_bin = binned(probabilities, labels, _BINS)
    counts = np.bincount(of_bin, minlength=_BINS)
    filled = np.flatnonzero(counts)
    mean, share = (np.bincount(of_bin, each, _BINS)[filled] / counts[filled] for each in (values, truth))
    figure, sheet, top = canvas(_WIDTH, GAP + _SQUARE + GAP + _COUNTS_HEIGHT + _FOOT + _CAPTION_HEIGHT)
    axes = _box(figure, top + 4, _SQUARE)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
    left, width = filled / _BINS, 1 / _BINS
    axes.bar(left, share, width, align="edge", color=_BLUE, alpha=0.35, edgecolor=_BLUE)
    # A dot off the diagonal is a gap that counts; a bar of height 0 is seen by its dot.
    axes.plot(mean, share, "o", color=_BLUE, markersize=6, clip_on=False)
    axes.set_ylabel("share of pairs of the same place")
    axes.tick_params(labelbottom=False)
    below = _box(figure, top + 4 + _SQUARE + GAP, _COUNTS_HEIGHT)
    below.set_yscale("log")
    below.set_ylim(0.5, 6 * float(counts.max()))  # from below 1, so that a single pair has a bar
    below.bar(left, counts[filled], width, align="edge", color=RULE, edgecolor=QUIET)
    for x, count in zip(left, counts[filled].tolist(), strict=True):
        below.text(x + width / 2, count * 1.15, _count(count), fontsize=9, color=INK, ha="center")
    below.set_ylabel("pairs")
    below.set_xlabel("stated probability")
    error = expected_calibration_error(values, truth, bins=_BINS)
    text = f"expected calibration error {error:.3f} over {len(values):,} pairs in {_BINS} bins"
    write(sheet, GAP, figure.bbox.height - 24, text, size=11, align="left")
    return figure


def draw_roc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Figure:
    """Draw a receiver operating characteristic: true pairs found against false ones let in, and the area.

    Parameters
    ----------
    scores : (N,) float
        Higher for pairs more likely to be of the same place.
    labels : (N,) bool, or 0 and 1

    Raises
    ------
    DataError
        If the lengths disagree, a score is not finite, a label is neither true nor false, or all labels are the
        same.
    """
    from sklearn.metrics import roc_curve

    area = roc_auc(scores, labels)
    figure, _, top = canvas(_WIDTH, GAP + _SQUARE + _FOOT + GAP)
    axes = _box(figure, top + 4, _SQUARE)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
    let_in, found, _ = roc_curve(np.asarray(labels, bool), scores, drop_intermediate=False)
    axes.plot(let_in, found, color=_BLUE, linewidth=2, label=f"AUC {area:.3f}")
    axes.set_xlabel("false pairs let in")
    axes.set_ylabel("true pairs found")
    axes.legend(loc="lower right", fontsize=10, frameon=False)
    return figure


def _box(figure: Figure, top: float, height: float) -> Axes:
    """Return axes from 0 to 1 in a box of a page, `top` and `height` in pixels."""
    width, whole = figure.bbox.width, figure.bbox.height
    axes = figure.add_axes(
        (_LEFT / width, 1 - (top + height) / whole, (width - _LEFT - GAP - 8) / width, height / whole)
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=10)
    axes.xaxis.label.set(color=INK, fontsize=11)
    axes.yaxis.label.set(color=INK, fontsize=11)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    return axes


def _count(count: int) -> str:
    """Return a count in few letters, so that it stays in its bin."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"
