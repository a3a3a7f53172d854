"""The protocol of the revisited Oxford and Paris benchmarks.

Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
CVPR 2018. What counts in each set-up, and what is taken out of a ranking, is in `ground_truth`. A query without a
positive in a set-up is left out of its means. All figures are in per cent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.ground_truth import SETUPS, GroundTruth, Setup, setup_fields
from delf_engine.evaluation.rankings import Gallery, Rankings, check_complete, in_query_order

_RANKS = (1, 5, 10)  # of the mean precision mP@k
_LISTS = ("easy", "hard", "junk")  # of a ground truth; the bit of a label is the place here


def evaluate(rankings: Rankings, ground_truth: GroundTruth, *, setup: Setup = "medium") -> Evaluation:
    """Measure rankings by the revisited protocol in one set-up.

    Parameters
    ----------
    rankings, ground_truth
        As for `evaluate_setups`, and so are the errors.
    setup : "easy", "medium" or "hard"
        Anything else is a `ConfigError`.
    """
    setup_fields(setup)
    return evaluate_setups(rankings, ground_truth)[setup]


def evaluate_setups(rankings: Rankings, ground_truth: GroundTruth) -> dict[Setup, Evaluation]:
    """Measure rankings by the revisited protocol, in all set-ups; every ranking is read once.

    Parameters
    ----------
    rankings : sequence of Q rankings, (Q, K) integers, or mapping of query name to ranking
        For each query the gallery's images, best first, as integer indices, as names, or as (name, score) with
        the order telling the rank; images that a set-up takes out may be in it or not. A ranking may end early: a
        positive that is not in it is never found and counts as missed in the average precision. Indices of int32
        and int64 in rows of their own are not copied; a rank matrix of one column a query goes through
        `rankings_from_ranks`.
    ground_truth : GroundTruth

    Returns
    -------
    dict of set-up to Evaluation
        With the average precision by the trapezoidal rule, and the precision at 1, 5 and 10, or at the rank of
        the last positive in the ranking if that comes first (0 if it holds none).

    Raises
    ------
    DataError
        If there is not one ranking a query, or one holds an unknown or doubled image, or a score that is NaN; or
        if rankings of indices are complete orders of a smaller gallery.
    """
    queries = len(ground_truth)
    ap = {setup: np.full(queries, np.nan) for setup in SETUPS}
    precision = {setup: np.full((queries, len(_RANKS)), np.nan) for setup in SETUPS}
    counts = {setup: np.array([len(each) for each in ground_truth.positives_of(setup)]) for setup in SETUPS}
    gallery = Gallery(ground_truth.names)
    ordered = in_query_order(rankings, ground_truth.query_names)
    for q, ranking in enumerate(ordered):
        lists = [getattr(ground_truth, field)[q] for field in _LISTS]
        places, labels = gallery.labelled(ranking, lists, f"ranking of query {ground_truth.query_names[q]}")
        for setup in SETUPS:
            positive, junk = (_bits(fields) for fields in setup_fields(setup))
            if counts[setup][q] == 0:
                continue
            left = places - np.cumsum((labels & junk) > 0)  # after the junk has been taken out
            found = left[(labels & positive) > 0]
            ap[setup][q] = 100 * _average_precision(found, int(counts[setup][q]))
            precision[setup][q] = [100 * _precision_at(found, k) for k in _RANKS]
    check_complete(ordered, len(ground_truth.names))
    return {
        setup: Evaluation(setup, ground_truth.query_names, counts[setup], ap[setup], _RANKS, precision[setup])
        for setup in SETUPS
    }


def _bits(fields: tuple[str, ...]) -> int:
    return sum(1 << _LISTS.index(field) for field in fields)


def _average_precision(found: npt.NDArray[np.int64], positives: int) -> float:
    """Area under precision over recall; `found` are the places of the positives, from 0, ascending."""
    before = np.arange(len(found))
    left = np.divide(before, found, out=np.ones(len(found)), where=found > 0)
    right = (before + 1) / (found + 1)
    return float((left + right).sum() / (2 * positives))


def _precision_at(found: npt.NDArray[np.int64], k: int) -> float:
    if len(found) == 0:
        return 0.0
    cut = min(int(found[-1]) + 1, k)
    return float((found < cut).sum() / cut)
