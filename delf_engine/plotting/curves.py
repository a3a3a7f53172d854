"""How far probabilities can be trusted, and how well scores tell pairs apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError
from delf_engine.evaluation.calibration_figures import Reliability, RocCurve, reliability, roc_curve
from delf_engine.plotting.canvas import GAP, INK, QUIET, RULE, canvas, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_reliability", "draw_roc"]

_WIDTH = 640
_SQUARE = 520  # of the diagram
_COUNTS_HEIGHT = 110
_LEFT, _FOOT, _CAPTION_HEIGHT = 72, 52, 34
_BLUE = "#0969da"
# Distinguishable by colour-blind readers (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_NAME_LETTERS = 40


def draw_reliability(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10, title: str | None = None
) -> Figure:
    """Draw a reliability diagram: how often pairs with a stated probability are really of the same place.

    Each bar is the share of true pairs in a bin of probabilities, the dot on it stands at the bin's mean
    probability; on the diagonal both agree. Below it the number of pairs in each bin, on a logarithmic scale, and
    the expected calibration error.

    Parameters
    ----------
    probabilities : (N,) float
        0 to 1.
    labels : (N,) bool, or 0 and 1
    bins : int
        Of equal width.
    title : str or None

    Raises
    ------
    DataError, ConfigError
        As `delf_engine.evaluation.reliability` does.
    """
    found = reliability(probabilities, labels, bins=bins)
    total = int(found.counts.sum())
    figure, sheet, top = canvas(_WIDTH, GAP + _SQUARE + GAP + _COUNTS_HEIGHT + _FOOT + _CAPTION_HEIGHT, title)
    axes = _box(figure, top + 4, _SQUARE)
    _draw_shares(axes, found)
    counts = _box(figure, top + 4 + _SQUARE + GAP, _COUNTS_HEIGHT)
    _draw_counts(counts, found)
    text = f"expected calibration error {found.error:.3f} over {total:,} pairs in {bins} bins"
    write(sheet, GAP, figure.bbox.height - 24, text, size=11, align="left")
    return figure


def draw_roc(
    scores: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    title: str | None = None,
) -> Figure:
    """Draw receiver operating characteristics: true pairs found against false ones let in, with the areas.

    Parameters
    ----------
    scores : (N,) float, or mapping of name to it
        Higher for pairs more likely to be of the same place. Several named ones give several curves.
    labels : (N,) bool or 0 and 1, or mapping of name to it
        Of all curves, or one set for each name.
    title : str or None

    Raises
    ------
    DataError
        If there is no curve, labels have no entry of a name, or as `delf_engine.evaluation.roc_curve` does; it
        names the curve.
    """
    curves = _curves(scores, labels)
    figure, _, top = canvas(_WIDTH, GAP + _SQUARE + _FOOT + GAP, title)
    axes = _box(figure, top + 4, _SQUARE)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
    for i, (name, curve) in enumerate(curves.items()):
        label = f"{_short(name)} (AUC {curve.auc:.3f})" if name else f"AUC {curve.auc:.3f}"
        x, y = curve.false_positive_rate, curve.true_positive_rate
        axes.plot(x, y, color=_COLOURS[i % len(_COLOURS)], linewidth=2, linestyle=_dash(i), label=label)
    axes.set_xlabel("false pairs let in")
    axes.set_ylabel("true pairs found")
    # A name may hold a dollar sign, which is no formula.
    for text in axes.legend(loc="lower right", fontsize=10, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def _curves(
    scores: npt.ArrayLike | Mapping[str, npt.ArrayLike], labels: npt.ArrayLike | Mapping[str, npt.ArrayLike]
) -> dict[str, RocCurve]:
    named = scores if isinstance(scores, Mapping) else {"": scores}
    if not named:
        raise DataError("no scores were given: there is no curve to draw")
    out = {}
    for name, values in named.items():
        if isinstance(labels, Mapping) and name not in labels:
            raise DataError(f"there are no labels for the curve {name!r}")
        try:
            out[name] = roc_curve(values, labels[name] if isinstance(labels, Mapping) else labels)
        except DataError as error:
            raise DataError(f"curve {name!r}: {error}" if name else str(error)) from error
    return out


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


def _draw_shares(axes: Axes, found: Reliability) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
    filled = found.counts > 0
    widths = np.diff(found.edges)
    axes.bar(found.edges[:-1][filled], found.share[filled], widths[filled], align="edge", color=_BLUE, alpha=0.35,
             edgecolor=_BLUE)  # fmt: skip
    # A dot off the diagonal is a gap that counts; a bar of height 0 is seen by its dot.
    axes.plot(found.mean_probability[filled], found.share[filled], "o", color=_BLUE, markersize=6, clip_on=False)
    axes.set_ylabel("share of pairs of the same place")
    axes.tick_params(labelbottom=False)


def _draw_counts(axes: Axes, found: Reliability) -> None:
    filled = found.counts > 0
    left, widths = found.edges[:-1], np.diff(found.edges)
    # From below 1, so that a single pair has a bar.
    axes.set_yscale("log")
    axes.set_ylim(0.5, 6 * float(found.counts.max()))
    axes.bar(left[filled], found.counts[filled], widths[filled], align="edge", color=RULE, edgecolor=QUIET)
    if len(left) <= 20:  # more numbers run into each other
        for x, width, count in zip(left[filled], widths[filled], found.counts[filled], strict=True):
            axes.text(x + width / 2, count * 1.15, _count(int(count)), fontsize=9, color=INK, ha="center")
    axes.set_ylabel("pairs")
    axes.set_xlabel("stated probability")


def _count(count: int) -> str:
    """Return a count in few letters, so that it stays in its bin."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


def _dash(place: int) -> str:
    """Return a line style that tells curves of one colour apart."""
    return ("-", "--", ":", "-.")[place // len(_COLOURS) % 4]


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"
