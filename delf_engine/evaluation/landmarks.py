"""The protocols of Google Landmarks v2: mAP@100 for retrieval, global average precision for recognition.

Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2, CVPR 2020; the definitions are those of the evaluation
published with it. All figures are in per cent. Unlike the revisited benchmarks' average precision, which is a
trapezoidal area, this one is the sum of the precisions at the ranks of what was found.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.figures import Evaluation, or_none
from delf_engine.evaluation.names import unknown_hint

__all__ = [
    "LandmarkSolution",
    "RecognitionFigures",
    "evaluate_landmark_recognition",
    "evaluate_landmark_retrieval",
]

Label = TypeVar("Label", str, int)
Float64 = npt.NDArray[np.float64]

_RANKS = (1, 5, 10)  # of the mean precision mP@k


@dataclass(frozen=True)
class LandmarkSolution(Generic[Label]):
    """Answers to the test queries, in the two parts that are scored apart.

    Attributes
    ----------
    public, private : dict of query id to tuple
        Ids of the relevant images (retrieval), or of the landmarks shown (recognition; empty for a query that
        shows none). Published figures are of the private part unless they say otherwise.
    ignored : frozenset of str
        Queries that are not scored: predictions for them are passed over.
    """

    public: Mapping[str, tuple[Label, ...]]
    private: Mapping[str, tuple[Label, ...]]
    ignored: frozenset[str]

    def __contains__(self, query: object) -> bool:
        return query in self.public or query in self.private or query in self.ignored

    @property
    def parts(self) -> dict[str, Mapping[str, tuple[Label, ...]]]:
        """The parts that hold a query, by name."""
        return {name: part for name, part in (("public", self.public), ("private", self.private)) if len(part) > 0}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RecognitionFigures(Evaluation):
    """Recognition figures, in per cent.

    `positives` are the landmarks that each query shows. `average_precision` is what each query adds to the global
    average precision, times the number of queries that show a landmark: the precision at its place among all
    predictions if it is recognised, else 0; NaN for a query that shows none. There are no figures by rank.

    Attributes
    ----------
    recognised : (Q,) bool
        Whether the predicted landmark is one that the query shows.
    order : (P,) int64
        Queries with a prediction, from the most confident one.
    """

    recognised: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]

    @property
    def shows_landmark(self) -> npt.NDArray[np.bool_]:
        """Which queries show a landmark, (Q,)."""
        return self.positives > 0

    @property
    def evaluated(self) -> int:
        """Number of queries, those that show no landmark included: a confident prediction for one costs."""
        return len(self.query_names)

    @property
    def predictions(self) -> int:
        """Number of queries with a prediction that was counted."""
        return len(self.order)

    @property
    def gap(self) -> float:
        """Global average precision (micro-AP); NaN if no query shows a landmark."""
        return self.mean_ap

    @property
    def gap_of_landmarks(self) -> float:
        """The same without the queries that show no landmark, and predictions for them."""
        right = self.recognised[self.order[self.shows_landmark[self.order]]]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        shown = int(self.shows_landmark.sum())
        return 100 * math.fsum(precision[right].tolist()) / shown if shown else math.nan

    @property
    def top1_accuracy(self) -> float:
        """Share of the queries that show a landmark whose predicted one is right; NaN if no query shows one."""
        shown = int(self.shows_landmark.sum())
        return 100 * int(self.recognised.sum()) / shown if shown else math.nan

    @property
    def figures(self) -> dict[str, float]:
        """All figures by their names, the main one first."""
        return {self.measure: self.gap, "GAP, landmarks only": self.gap_of_landmarks, "top-1": self.top1_accuracy}

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return super().to_dict() | {
            "landmark_queries": int(self.shows_landmark.sum()),
            "predictions": self.predictions,
            "gap_of_landmarks": or_none(self.gap_of_landmarks),
            "top1_accuracy": or_none(self.top1_accuracy),
        }


def evaluate_landmark_retrieval(
    predictions: Mapping[str, Sequence[str]],
    relevant: Mapping[str, Collection[str]],
    *,
    k: int = 100,
    name: str = "all",
) -> Evaluation:
    """Measure retrieval by mAP@k.

    A query's average precision is the sum, over the ranks up to k that hold a relevant image, of the share of
    relevant images up to there, divided by the smaller of k and the number of relevant images. The mean is over
    all queries of `relevant`; those without a prediction count 0. Precision counts a place without a prediction as
    one without a relevant image.

    Parameters
    ----------
    predictions : mapping of query id to sequence of image ids
        Best first; what is beyond the first `k` does not matter.
    relevant : mapping of query id to image ids
        One at least for each query, such as `LandmarkSolution.private`.
    k : int
        100 in the published figures.
    name : str
        Of what is measured.

    Raises
    ------
    DataError
        If a prediction is for an unknown query, an image occurs twice, or a query has no relevant image.
    ConfigError
        If `k` is below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    _check_queries(predictions, relevant)
    names = tuple(relevant)
    positives = np.array([len(set(relevant[query])) for query in names], np.int64)
    if (positives == 0).any():
        raise DataError(f"query {names[int(positives.argmin())]!r} has no relevant image: leave it out")
    ap, precision = np.zeros(len(names)), np.zeros((len(names), len(_RANKS)))
    for q, query in enumerate(names):
        found = _found(predictions.get(query, ()), set(relevant[query]), k, f"prediction for {query!r}")
        ap[q] = 100 * math.fsum((i + 1) / rank for i, rank in enumerate(found)) / min(positives[q], k)
        precision[q] = [100 * sum(rank <= cut for rank in found) / cut for cut in _RANKS]
    return Evaluation(name, names, positives, ap, _RANKS, precision, measure=f"mAP@{k}")


def evaluate_landmark_recognition(
    predictions: Mapping[str, tuple[int, float]],
    landmarks: Mapping[str, Collection[int]],
    *,
    name: str = "all",
) -> RecognitionFigures:
    """Measure recognition by the global average precision (GAP, also called micro-AP).

    The predictions of all queries are sorted by confidence, equal ones by query id, ascending. GAP is the sum,
    over the places that hold a right prediction, of the share of right ones up to there, divided by the number
    of queries that show a landmark. A confident prediction for a query that shows none thus costs.

    Parameters
    ----------
    predictions : mapping of query id to (landmark id, confidence)
        At most one a query.
    landmarks : mapping of query id to landmark ids
        Empty for a query that shows none, such as `LandmarkSolution.private`.
    name : str
        Of what is measured.

    Raises
    ------
    DataError
        If a prediction is for an unknown query, is no landmark and confidence, or a confidence is NaN.
    """
    _check_queries(predictions, landmarks)
    for query, prediction in predictions.items():
        _check_prediction(query, prediction)
    names = tuple(landmarks)
    place_of = {query: q for q, query in enumerate(names)}
    positives = np.array([len(set(landmarks[query])) for query in names], np.int64)
    precision = np.where(positives > 0, 0.0, math.nan)
    recognised = np.zeros(len(names), bool)
    order = sorted(predictions, key=lambda query: (-predictions[query][1], query))
    right = 0
    for place, query in enumerate(order, start=1):
        if predictions[query][0] in landmarks[query]:
            right += 1
            recognised[place_of[query]] = True
            precision[place_of[query]] = 100 * right / place
    numbers = np.array([place_of[query] for query in order], np.int64)
    return RecognitionFigures(
        name=name,
        query_names=names,
        positives=positives,
        average_precision=precision,
        ranks=(),
        precision=np.empty((len(names), 0)),
        measure="GAP",
        recognised=recognised,
        order=numbers,
    )


def _found(images: Sequence[str], relevant: set[str], k: int, what: str) -> list[int]:
    """Return the ranks, from 1, of the relevant images among the first k."""
    if isinstance(images, str) or not all(isinstance(image, str) for image in images[:k]):
        raise DataError(f"{what} must be a list of image ids")
    ranks: dict[str, int] = {}
    for rank, image in enumerate(images[:k], start=1):
        if ranks.setdefault(image, rank) != rank:
            raise DataError(f"{what}: image {image!r} is at ranks {ranks[image]} and {rank}")
    return [rank for image, rank in ranks.items() if image in relevant]


def _check_queries(predictions: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = [name for name in predictions if name not in known]
    if unknown:
        hint = unknown_hint(len(unknown), len(predictions), len(known))
        raise DataError(f"there is a prediction for {unknown[0]!r}, which is no query of this ground truth{hint}")


def _check_prediction(name: str, prediction: Any) -> None:
    try:
        landmark, score = prediction
        if isinstance(landmark, (int, np.integer)) and not math.isnan(score):
            return
    except (TypeError, ValueError):  # not two, or no number
        pass
    raise DataError(f"prediction for {name!r}: expected (landmark, confidence), a number, got {prediction!r}")
