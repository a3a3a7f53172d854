"""Is a calibration right for places it has not seen? Cross-validation in which no place is on both sides.

Pairs are no independent samples: photographs of one landmark are alike in how many inliers they have, and each
photograph is in many pairs. Places are therefore dealt into folds, and a pair between folds f and g is judged by a
calibration of the pairs that touch neither.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.verification.calibration import Calibration
from delf_engine.verification.calibration_fit import MINIMUM_PAIRS, Evidence, Method, checked_labels
from delf_engine.verification.result import Verification

__all__ = ["connected_places", "cross_validated", "fold_of_places"]

Names = Sequence[tuple[str, str]]


def connected_places(pairs: Names, labels: npt.ArrayLike) -> list[tuple[str, str]]:
    """Return the places of both images of each pair, where pairs with label 1 tell which images share one.

    A chain of such pairs joins images to one place; it is named after its first image in alphabetical order. An
    image in no such pair is a place of its own.

    Parameters
    ----------
    pairs : sequence of (image, image)
    labels : (N,) of 0 and 1
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for (a, b), label in zip(pairs, np.asarray(labels).tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        if label:
            parent[high] = low
    return [(root(a), root(b)) for a, b in pairs]


def fold_of_places(places: Names, labels: npt.ArrayLike, folds: int) -> dict[str, int]:
    """Deal places into folds: those with pairs of label 1, then, from empty folds again, those without.

    The largest places go first, each to the fold that holds least; ties go by name and by number, so that the
    order of pairs does not matter.

    Parameters
    ----------
    places : sequence of (place, place)
        Of both images of each pair.
    labels : (N,) of 0 and 1
    folds : int
        At least 1; some stay empty if there are fewer places.

    Returns
    -------
    dict of place to number of its fold
    """
    positives: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for both, label in zip(places, np.asarray(labels).tolist(), strict=True):
        for place in set(both):
            pairs[place] += 1
            positives[place] += int(label)
    paired = {place: positives[place] for place in pairs if positives[place]}
    others = {place: pairs[place] for place in pairs if not positives[place]}
    return {**_dealt(paired, folds), **_dealt(others, folds)}


def _dealt(sizes: Mapping[str, int], folds: int) -> dict[str, int]:
    loads = [(0, fold) for fold in range(folds)]
    out = {}
    for place in sorted(sizes, key=lambda name: (-sizes[name], name)):
        load, fold = min(loads)
        loads[fold] = (load + sizes[place], fold)
        out[place] = fold
    return out


def cross_validated(
    verifications: Sequence[Verification],
    labels: npt.ArrayLike,
    places: Names,
    *,
    method: Method = "logistic",
    evidence: Sequence[Evidence] = ("inlier_similarity",),
    prior: float = 0.5,
    folds: int = 5,
) -> npt.NDArray[np.float64]:
    """Return for each pair the probability that a calibration gives it which has seen neither of its places.

    Parameters
    ----------
    verifications : sequence of N Verification
    labels : (N,) of 0 and 1
    places : sequence of N (place, place)
        Of both images of each pair.
    method, evidence, prior
        See `Calibration.fit`.
    folds : int
        Of places, at least 3: two hold the pair's places, the others are learnt from.

    Returns
    -------
    (N,) float64
        NaN where the pairs of the other places are too few to fit: such pairs stay unjudged.

    Raises
    ------
    ConfigError
        If there are fewer than 3 folds.
    DataError, MismatchError
        As `Calibration.fit`.
    """
    if folds < 3:
        raise ConfigError(f"cross-validation between places needs 3 folds at least, got {folds}")
    if len(places) != len(verifications):
        raise DataError(f"two places a pair are needed, got {len(places)} for {len(verifications)} pairs")
    same = checked_labels(labels, len(verifications), method)
    fold = fold_of_places(places, same, folds)
    ends = np.array([sorted((fold[a], fold[b])) for a, b in places], np.int64)
    least = MINIMUM_PAIRS[method]
    out = np.full(len(verifications), np.nan)
    for f, g in itertools.combinations_with_replacement(range(folds), 2):
        judged = np.flatnonzero((ends[:, 0] == f) & (ends[:, 1] == g))
        learnt = np.flatnonzero(~np.isin(ends, (f, g)).any(axis=1))
        positives = int(same[learnt].sum())
        if not len(judged) or min(positives, len(learnt) - positives) < least:
            continue
        calibration = Calibration.fit(
            [verifications[i] for i in learnt.tolist()],
            same[learnt],
            method=method,
            evidence=evidence,
            prior=prior,
            trained_on="the other places",
        )
        out[judged] = calibration.probabilities([verifications[i] for i in judged.tolist()])
    return out
