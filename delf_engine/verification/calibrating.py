"""Calibration from labelled pairs of photographs: their list, the fit, and whether it is right for unseen places.

A list is CSV or JSON lines of a, b and label (1: the same place, 0: not).

Pairs are no independent samples: photographs of one landmark are alike in how many inliers they have, and each
photograph is in many pairs. Places are therefore dealt into folds, and a pair between folds f and g is judged by a
calibration of the pairs that touch neither.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.config import Profile
from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc
from delf_engine.features import LocalFeatures
from delf_engine.support.connected import first_connected
from delf_engine.support.files import system_errors
from delf_engine.verification.calibration import (
    MINIMUM_PAIRS,
    Calibration,
    Evidence,
    check_options,
    checked_labels,
)
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import PairVerifier, confirmed

Names = Sequence[tuple[str, str]]


class LabelledPair(NamedTuple):
    """Two images as they are named in the list, and whether they show the same place."""

    a: str
    b: str
    label: int


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """How pairs are judged by calibrations that have seen neither of their places."""

    # (N,) float64, (N,) int64: of the pairs that could be judged; the others' places left too few pairs to fit.
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    places: int  # places that pairs with label 1 show
    prior: float  # what the probabilities hold for

    @property
    def conclusive(self) -> bool:
        """Whether pairs of both labels could be judged: without them there are no figures."""
        return len(set(self.labels.tolist())) == 2

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON; None where there are none."""
        p, labels, sure = self.probabilities, self.labels, self.conclusive
        return {
            "places": self.places,
            "judged": len(p),
            "expected_calibration_error": expected_calibration_error(p, labels, prior=self.prior)
            if sure
            else None,
            "roc_auc": roc_auc(p, labels) if sure else None,
        }


def read_labelled_pairs(path: Path) -> list[LabelledPair]:
    """Read labelled pairs in the order of the file; a pair that is listed again, either way round, counts once.

    ``.csv`` has the columns ``a,b,label`` (others are passed over), ``.jsonl`` one object ``{"a": image, "b":
    image, "label": 0 or 1}`` a line. A `FormatError`, which names the file and the line, if it cannot be read or
    holds no pair, a line is wrong, pairs an image with itself, or gives a pair another label than an earlier line.
    """
    rows = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower())
    if rows is None:
        raise FormatError(f"{path}: the ending must be .csv or .jsonl")
    found: dict[tuple[str, str], tuple[LabelledPair, int]] = {}
    with (
        system_errors(f"{path}: cannot be read"),
        # As the system gives names of files that are not UTF-8.
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines,
    ):
        for number, values in rows(path, lines):
            pair = _parsed(f"{path}, line {number}", values)
            first, line = found.setdefault((min(pair[:2]), max(pair[:2])), (pair, number))
            if first.label != pair.label:
                raise FormatError(
                    f"{path}, line {number}: {pair.a!r} and {pair.b!r} have label {pair.label} here and "
                    f"{first.label} in line {line}; keep one of them"
                )
    if not found:
        raise FormatError(f"{path}: holds no pair; one a line is needed, with the columns a, b and label")
    return [pair for pair, _ in found.values()]


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines, strict=True)
    try:
        header: list[str] = next(filter(None, reader), [])
        columns = [name.strip() for name in header]
        if columns and not {"a", "b", "label"} <= set(columns):
            raise FormatError(f"{path}, line 1: expected the columns a,b,label, got {','.join(columns)}")
        for row in reader:
            if row and len(row) != len(columns):
                raise FormatError(f"{path}, line {reader.line_num}: {len(row)} columns instead of {len(columns)}")
            if row:
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise FormatError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}, line {number}: is not JSON: {error}") from error
        if not isinstance(values, dict) or not {"a", "b", "label"} <= set(values):
            raise FormatError(f'{path}, line {number}: expected {{"a": image, "b": image, "label": 0 or 1}}')
        yield number, values


def _parsed(where: str, values: dict[str, Any]) -> LabelledPair:
    a, b, label = values["a"], values["b"], values["label"]
    if not all(isinstance(name, str) and name for name in (a, b)):
        raise FormatError(f"{where}: a and b must be ids or paths of images, got {a!r} and {b!r}")
    text = label.strip() if isinstance(label, str) else label
    if text not in ("0", "1", 0, 1):
        raise FormatError(f"{where}: the label must be 1 (the same place) or 0 (different places), got {label!r}")
    if a == b:
        raise FormatError(f"{where}: pairs {a!r} with itself; leave that line out")
    return LabelledPair(a, b, int(text))


def calibrate(
    pairs: Sequence[LabelledPair],
    features: Mapping[str, LocalFeatures],
    profile: Profile,
    *,
    fine: Callable[[str], LocalFeatures | None] | None = None,
    evidence: Evidence = "inlier_similarity",
    prior: float = 0.5,
    folds: int = 5,
    seed: int = 0,
    trained_on: str,
    checkpoint: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Calibration, CrossValidation]:
    """Verify labelled pairs, fit a calibration to all of them, and check it by cross-validation between places.

    Parameters
    ----------
    pairs : sequence of LabelledPair
    features : mapping of image to LocalFeatures
        Features of both images of every pair.
    profile : Profile
        That they were extracted with, and are verified with.
    fine : function or None
        From an image to its fine features, or to None: for the fine evidence of the pairs.
    evidence, prior, trained_on, checkpoint
        See `Calibration.fit`, which tells the errors too.
    folds : int
        See `cross_validated`.
    seed : int
        Seed of estimators that draw samples.
    progress : callable or None
        Called with the number of pairs verified, and of all.
    """
    check_request(pairs, evidence, prior)
    verifications = verified_pairs(pairs, features, profile, fine=fine, seed=seed, progress=progress)
    options: dict[str, Any] = {"evidence": evidence, "prior": prior, "folds": folds}
    return calibrate_verified(
        pairs, verifications, profile, trained_on=trained_on, checkpoint=checkpoint, **options
    )


def check_request(pairs: Sequence[LabelledPair], evidence: str, prior: float) -> None:
    """Refuse before the work what `calibrate` cannot do: `ConfigError` for options, `DataError` for few pairs."""
    check_options(evidence, prior)
    checked_labels([pair.label for pair in pairs], len(pairs))


def verified_pairs(
    pairs: Sequence[LabelledPair],
    features: Mapping[str, LocalFeatures],
    profile: Profile,
    *,
    fine: Callable[[str], LocalFeatures | None] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verification]:
    """Verify labelled pairs: the first half of `calibrate`, which tells the parameters."""
    config, exponent = profile.verification, profile.ranking.exponent
    verifications = []
    for number, (a, b, _) in enumerate(pairs, start=1):
        found = PairVerifier(features[a], config=config, exponent=exponent, seed=seed)(features[b])
        details = [] if fine is None else [own for own in (fine(a), fine(b)) if own is not None]
        if len(details) == 2:
            found = confirmed(found, *details, config=profile.fine, seed=seed)
        verifications.append(found)
        if progress is not None:
            progress(number, len(pairs))
    return verifications


def calibrate_verified(
    pairs: Sequence[LabelledPair],
    verifications: Sequence[Verification],
    profile: Profile,
    *,
    evidence: Evidence = "inlier_similarity",
    prior: float = 0.5,
    folds: int = 5,
    trained_on: str,
    checkpoint: str | None = None,
) -> tuple[Calibration, CrossValidation]:
    """Fit and check a calibration: the second half of `calibrate`, which tells the parameters."""
    labels = np.array([pair.label for pair in pairs])
    calibration = Calibration.fit(
        verifications,
        labels,
        evidence=evidence,
        prior=prior,
        trained_on=trained_on,
        checkpoint=checkpoint,
        profile=profile,
    )
    places = connected_places([(pair.a, pair.b) for pair in pairs], labels)
    p = cross_validated(verifications, labels, places, evidence=evidence, prior=prior, folds=folds)
    judged = ~np.isnan(p)
    shown = {place for both, label in zip(places, labels, strict=True) if label for place in both}
    return calibration, CrossValidation(p[judged], labels[judged], len(shown), prior)


def connected_places(pairs: Names, labels: npt.ArrayLike) -> list[tuple[str, str]]:
    """Return the places of both images of each pair, where pairs with label 1 say which images share one.

    A chain of such pairs joins images to one place; it is named after its first image in alphabetical order. An
    image in no such pair is a place of its own.
    """
    joined = itertools.compress(pairs, np.asarray(labels, bool))
    names = first_connected(itertools.chain.from_iterable(pairs), joined)
    return [(names[a], names[b]) for a, b in pairs]


def fold_of_places(places: Names, labels: npt.ArrayLike, folds: int) -> dict[str, int]:
    """Deal places into folds, and return the fold of each.

    Those with pairs of label 1 come first; then, from empty folds again, the rest. The largest places go first,
    each to the fold that holds least; ties go by name and by number, so that the order of pairs does not matter.
    scikit-learn's GroupKFold deals alike, but knows one group a sample: a pair has two. Some folds stay empty if
    there are fewer places.
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
    evidence: Evidence = "inlier_similarity",
    prior: float = 0.5,
    folds: int = 5,
    weights: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """Return for each pair the probability that a calibration gives it which has seen neither of its places.

    `places` are those of both images of each pair. Of the `folds` of places, at least 3, two hold the pair's, the
    others are learnt from; all else is as of `Calibration.fit`, which tells the errors too. (N,) float64, NaN
    where the pairs of the other places are too few to fit: such pairs stay unjudged. A `ConfigError` if there are
    fewer than 3 folds.
    """
    if folds < 3:
        raise ConfigError(f"cross-validation between places needs 3 folds at least, got {folds}")
    if len(places) != len(verifications):
        raise DataError(f"two places a pair are needed, got {len(places)} for {len(verifications)} pairs")
    same = checked_labels(labels, len(verifications))
    stand_for = np.ones(len(same)) if weights is None else np.asarray(weights, np.float64)
    fold = fold_of_places(places, same, folds)
    ends = np.array([sorted((fold[a], fold[b])) for a, b in places], np.int64)
    out = np.full(len(verifications), np.nan)
    for f, g in itertools.combinations_with_replacement(range(folds), 2):
        judged = np.flatnonzero((ends[:, 0] == f) & (ends[:, 1] == g))
        learnt = np.flatnonzero(~np.isin(ends, (f, g)).any(axis=1))
        positives = int(same[learnt].sum())
        if not len(judged) or min(positives, len(learnt) - positives) < MINIMUM_PAIRS:
            continue
        calibration = Calibration.fit(
            [verifications[i] for i in learnt.tolist()],
            same[learnt],
            evidence=evidence,
            prior=prior,
            trained_on="the other places",
            weights=stand_for[learnt],
        )
        out[judged] = calibration.probabilities([verifications[i] for i in judged.tolist()])
    return out
