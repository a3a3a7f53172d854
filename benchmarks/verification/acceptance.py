"""How many pairs of one place are accepted at a given share of false acceptances, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["RATES", "Scored", "accepted", "difference"]

Float64 = npt.NDArray[np.float64]

#: False acceptances a pair of different places.
RATES = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Scored:
    """Pairs with a score, (P,) each.

    Attributes
    ----------
    scores : (P,) float64
    labels : (P,) bool
    weights : (P,) float64
        Pairs that each one stands for.
    places : list of P (str, str)
    """

    scores: Float64
    labels: npt.NDArray[np.bool_]
    weights: Float64
    places: Sequence[tuple[str, str]]


def accepted(pairs: Scored, rate: float, times: Float64 | None = None) -> float:
    """Return the share of pairs of one place whose score is above the lowest threshold that keeps the rate.

    Parameters
    ----------
    pairs : Scored
        With pairs of both labels.
    rate : float
        Share of the pairs of different places that may score above the threshold.
    times : (P,) float64 or None
        How often each pair was drawn, by its place in the list.
    """
    weights = pairs.weights if times is None else pairs.weights * times
    wrong = np.flatnonzero(~pairs.labels)
    wrong = wrong[np.argsort(-pairs.scores[wrong], kind="stable")]
    above = np.cumsum(weights[wrong]) > rate * weights[wrong].sum() * (1 + 1e-12)
    limit = pairs.scores[wrong[int(above.argmax())]] if above.any() else -np.inf
    right = pairs.labels
    return float(np.average(pairs.scores[right] > limit, weights=weights[right]))


def difference(first: Scored, second: Scored, rate: float, *, samples: int = 500, seed: int = 0) -> Float64:
    """Return by how much the first scores accept more, in resamples of the places.

    Places are drawn with replacement, the same ones for both; a pair of two places counts as often as both were
    drawn together. The threshold is found anew each time. (Davison and Hinkley 1997; percentile intervals follow.)

    Returns
    -------
    (S,) float64
        Of at most `samples` resamples: those without pairs of one label are left out.
    """
    names = sorted({place for side in (first, second) for pair in side.places for place in pair})
    number = {name: i for i, name in enumerate(names)}
    ends = [np.array([[number[a], number[b]] for a, b in side.places]) for side in (first, second)]
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(samples):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)).astype(float)
        times = [np.where(e[:, 0] == e[:, 1], drawn[e[:, 0]], drawn[e[:, 0]] * drawn[e[:, 1]]) for e in ends]
        sides = list(zip((first, second), times, strict=True))
        if all(t[side.labels].any() and t[~side.labels].any() for side, t in sides):
            one, other = (accepted(side, rate, t) for side, t in sides)
            out.append(one - other)
    return np.array(out)
