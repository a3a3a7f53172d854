"""A chart of the inliers of positive and of negative pairs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.plotting.report.page import Picture

__all__ = ["edges_of", "histogram"]

_BLUE, _ORANGE, _GREY = "#2f81f7", "#d4641c", "#6e7781"  # readable on a light page and on a dark one
_DPI = 100


def edges_of(largest: int, threshold: int | None) -> npt.NDArray[np.int64]:
    """Return ascending edges of bins for inlier counts from 0 to `largest`, wider and wider.

    No inliers at all is a bin of its own, and a threshold begins one.
    """
    edges = np.r_[0, np.unique(np.round(2 ** (np.arange(49) / 4)))].astype(np.int64)
    if threshold is not None and threshold > 0:
        # Moved, not added: a narrow bin would look like a gap.
        edges[1 + np.abs(edges[1:] - threshold).argmin()] = threshold
    return np.append(edges[edges <= largest], largest + 1)


def histogram(positives: Sequence[int], negatives: Sequence[int], threshold: int | None) -> Picture:
    """Draw inlier counts: positive pairs upwards, negative ones downwards, on one logarithmic scale.

    Parameters
    ----------
    positives, negatives : sequence of int
        Inliers of each pair.
    threshold : int or None
        From how many inliers on two photographs count as the same place.

    Returns
    -------
    Picture
        An SVG of the same bytes for the same counts, without background.
    """
    import matplotlib
    from matplotlib.figure import Figure

    edges = edges_of(max([*positives, *negatives, 0]), threshold)
    places = np.arange(len(edges) - 1)
    figure = Figure(figsize=(9, 3.4), dpi=_DPI, layout="constrained")
    figure.patch.set_alpha(0)
    above, below = figure.subplots(2, sharex=True)
    parts = [np.histogram(counts, edges)[0] for counts in (positives, negatives)]
    for axes, pairs, colour, name in zip(
        (above, below), parts, (_BLUE, _ORANGE), ("positives", "negatives"), strict=True
    ):
        axes.patch.set_alpha(0)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(0.5, 2 * max(1, *(part.max() for part in parts)))  # a single pair must not look like none
        axes.bar(places, pairs, 0.84, color=colour)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylabel(name, color=colour)
        axes.tick_params(which="both", colors=_GREY)
        axes.tick_params(which="minor", length=0)
        axes.grid(axis="y", color=_GREY, alpha=0.3)
        axes.spines[:].set_visible(False)
        for place in np.flatnonzero(edges[:-1] == threshold):
            axes.axvline(place - 0.5, color=_GREY, linestyle="--")
    below.invert_yaxis()
    every = max(1, -(-len(places) // 12))
    below.set_xticks(places[::every], [f"{edge:,}" for edge in edges[:-1:every]])
    below.set_xlabel("inliers", color=_GREY)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "delf-engine"}):  # else the ids in the file are random
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    source = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    width, height = (round(side * _DPI) for side in figure.get_size_inches())
    return Picture("inliers of positive pairs, above, and of negative pairs, below", source, width, height)
