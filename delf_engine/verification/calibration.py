"""`Calibration`: from the evidence of a `Verification` to a probability that two photographs show one place.

It is fitted once on labelled pairs (`calibrating`, scikit-learn) and kept as a JSON file, beside the checkpoint if
it is that checkpoint's own; what it then needs is NumPy's and Python's own arithmetic.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from delf_engine.config import Config, Profile, parse_config
from delf_engine.errors import ConfigError, FormatError, MismatchError
from delf_engine.support.files import replacing, system_errors
from delf_engine.verification.calibration_fit import (
    EVIDENCE,
    MINIMUM_PAIRS,
    Evidence,
    Method,
    checked_labels,
    common_options,
    evidence_of,
    extraction_sha256,
    fit_isotonic,
    fit_logistic,
    options_of,
    verification_sha256,
)
from delf_engine.verification.result import Verification

__all__ = ["Calibration", "calibration_beside", "load_calibration"]

_FORMAT = "delf-engine calibration"
_VERSION = 1

Probability = Annotated[float, Field(gt=0, lt=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Calibration(Config):
    """How probable it is that two photographs show the same place, given what their verification found.

    The probability holds where pairs of one place have the share `prior`; `probability` takes another one. It
    never falls when inliers are added. The likelihood ratio is kept between 1 / (positives + 2) and
    negatives + 2, after Laplace's rule of succession: what none of n pairs did may still happen about once in
    n + 2. At prior 0.5 no probability is thus below 1 / (positives + 3) or above 1 - 1 / (negatives + 3).

    Attributes
    ----------
    method : "logistic" or "isotonic"
    evidence : str
        What it looks at, a name of `calibration_fit.EVIDENCE`.
    slope, intercept : float
        ``logistic``: log odds are slope x evidence + intercept.
    knots, levels : tuple of float
        ``isotonic``: probabilities at ascending evidence; linear between, constant beyond.
    prior : float
        Share of pairs of one place that the curve holds for.
    positives, negatives : int
        Pairs that it was fitted on.
    trained_on : str
        What they were, in words.
    checkpoint : str or None
        Identity of the model that made the features, if known.
    profile : str or None
        Name of their profile, if known.
    verification_sha256, extraction_sha256 : str or None
        Of that profile's options, see the functions of these names.
    geometry : str
        `Verification.model` of the pairs.
    estimator, residual_px, reference_size, exponent
        As in `Verification`.
    """

    method: Method
    evidence: Evidence
    slope: Annotated[float, Field(gt=0)] | None = None
    intercept: float | None = None
    knots: tuple[float, ...] = ()
    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    prior: Probability
    positives: int = Field(ge=1)
    negatives: int = Field(ge=1)
    trained_on: str
    checkpoint: str | None = None
    profile: str | None = None
    verification_sha256: Sha256 | None = None
    extraction_sha256: Sha256 | None = None
    geometry: str
    estimator: str
    residual_px: float
    reference_size: int | None
    exponent: float

    @model_validator(mode="after")
    def _is_a_curve(self) -> Calibration:
        line, steps = (self.slope, self.intercept), (self.knots, self.levels)
        if self.method == "logistic":
            if None in line or any(steps):
                raise ValueError("logistic: a slope and an intercept are needed, and no knots")
        elif line != (None, None) or not self.knots or len(self.knots) != len(self.levels):
            raise ValueError("isotonic: one level for each knot is needed, and no slope")
        elif any(b <= a for a, b in pairwise(self.knots)) or list(self.levels) != sorted(self.levels):
            raise ValueError("isotonic: knots must ascend, and levels must not descend")
        return self

    @classmethod
    def fit(
        cls,
        verifications: Sequence[Verification],
        labels: npt.ArrayLike,
        *,
        method: Method = "logistic",
        evidence: Evidence = "inlier_similarity",
        prior: float = 0.5,
        trained_on: str,
        checkpoint: str | None = None,
        profile: Profile | None = None,
    ) -> Calibration:
        """Fit a calibration to pairs of photographs of which it is known whether they show the same place.

        The same pairs in any order give the same bits.

        Parameters
        ----------
        verifications : sequence of N Verification
            All made with the same options.
        labels : (N,) of 0 and 1
            1: the same place.
        method : "logistic" or "isotonic"
            ``logistic`` needs 10 pairs of either label, ``isotonic`` 50, and is worth it from many hundreds on.
        evidence : str
            A name of `calibration_fit.EVIDENCE`.
        prior : float
            Share of pairs of one place that probabilities are to hold for, above 0 and below 1. The labels are
            weighted to it; the share among the given pairs does not matter.
        trained_on : str
            What the pairs are, in words.
        checkpoint : str or None
            Identity of the model that made the features.
        profile : Profile or None
            With which they were made and verified.

        Raises
        ------
        DataError
            If there are too few pairs of a label, numbers of pairs and labels differ, labels are not 0 and 1,
            evidence is not finite, or pairs of one place have no more inliers than the others.
        MismatchError
            If the verifications were made with different options, or with others than the profile's.
        ConfigError
            If `method`, `evidence` or `prior` is not one of those above.
        """
        for what, known, value in (("method", MINIMUM_PAIRS, method), ("evidence", EVIDENCE, evidence)):
            if value not in known:
                raise ConfigError(f"there is no calibration {what} {value!r}; known: {', '.join(known)}")
        _checked_prior(prior)
        same = checked_labels(labels, len(verifications), method)
        made_with = common_options(verifications, profile)
        values_of_pairs = evidence_of(verifications, evidence)
        curve: dict[str, Any] = {}
        if method == "logistic":
            curve["slope"], curve["intercept"] = fit_logistic(values_of_pairs, same, prior)
        else:
            curve["knots"], curve["levels"] = fit_isotonic(values_of_pairs, same, prior)
        values = {
            "method": method,
            "evidence": evidence,
            **curve,
            "prior": float(prior),
            "positives": int(same.sum()),
            "negatives": int((~same).sum()),
            "trained_on": trained_on,
            "checkpoint": checkpoint,
            "profile": None if profile is None else profile.name,
            "verification_sha256": None if profile is None else verification_sha256(profile),
            "extraction_sha256": None if profile is None else extraction_sha256(profile),
            **made_with,
        }
        return parse_config(cls, values, where="calibration")

    def probability(self, verification: Verification, *, prior: float | None = None) -> float:
        """Return the probability that two photographs show the same place.

        Parameters
        ----------
        verification : Verification
        prior : float or None
            Share of pairs of one place among those that are asked about, above 0 and below 1; None: `self.prior`.

        Raises
        ------
        MismatchError
            If it was made with another geometric model, residual, size or exponent than the calibration's pairs.
        DataError
            If its evidence is not finite.
        ConfigError
            If `prior` is out of range.
        """
        return float(self.probabilities([verification], prior=prior)[0])

    def probabilities(
        self, verifications: Iterable[Verification], *, prior: float | None = None
    ) -> npt.NDArray[np.float64]:
        """Return `probability` of each verification, (N,) float64; the same bits as one by one."""
        items = list(verifications)
        offset = _logit(_checked_prior(self.prior if prior is None else prior))
        for verification in items:
            self.check(verification)
        values = evidence_of(items, self.evidence).tolist()
        return np.array([_logistic(self._log_likelihood_ratio(value) + offset) for value in values], np.float64)

    def check(self, verification: Verification) -> None:
        """Refuse a verification that was made with other options than the pairs this was fitted on.

        Raises
        ------
        MismatchError
            If the geometric model, the residual, the reference size or the exponent differs. An exponent that no
            evidence depends on may differ.
        """
        for what, found in options_of(verification).items():
            fitted = getattr(self, what)
            if found != fitted and not (what == "exponent" and not self._uses_similarity):
                raise MismatchError(
                    f"this calibration was fitted to verifications with {what} {fitted!r}, this one has "
                    f"{found!r}; verify with the options it was fitted for, or fit another one "
                    "(delf-engine calibrate)"
                )

    def holds_for(self, *, profile: Profile | None = None, checkpoint: str | None = None) -> bool:
        """Tell whether it was fitted for this model and these options, as far as both sides know.

        The number of inliers of the decision, and the precision of extraction, do not matter.
        """
        known: list[tuple[str | None, str | None]] = [(self.checkpoint, checkpoint)]
        if profile is not None:
            known += [
                (self.verification_sha256, verification_sha256(profile)),
                (self.extraction_sha256, extraction_sha256(profile)),
            ]
            if self._uses_similarity and profile.ranking.exponent != self.exponent:
                return False
        return all(ours is None or theirs is None or ours == theirs for ours, theirs in known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; `from_dict` takes them back."""
        return {"format": _FORMAT, "format_version": _VERSION, **self.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "calibration") -> Calibration:
        """Return the calibration that `to_dict` has written; errors name `where` it came from.

        Raises
        ------
        FormatError
            If it is none, of another format version, or a value is missing, unknown or bad.
        """
        if not isinstance(values, Mapping) or values.get("format") != _FORMAT:
            raise FormatError(
                f"{where}: not a calibration (no format {_FORMAT!r}); delf-engine calibrate makes one"
            )
        version = values.get("format_version")
        if version != _VERSION:
            raise FormatError(f"{where}: format version {version!r}, this version reads {_VERSION}; fit it again")
        fields = {key: value for key, value in values.items() if key not in ("format", "format_version")}
        try:
            return parse_config(cls, fields, where=where)
        except ConfigError as error:
            raise FormatError(f"{error}; fit it again (delf-engine calibrate)") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; replaces the file at once or not at all.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        with (
            system_errors(f"{os.fspath(path)}: the calibration cannot be written; choose another folder"),
            replacing(Path(path)) as temporary,
        ):
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file that `save` has written.

        Raises
        ------
        FormatError
            If it cannot be read, is no JSON, or `from_dict` refuses it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FormatError(f"{os.fspath(path)}: cannot be read as a calibration: {error}") from error
        return cls.from_dict(values, where=os.fspath(path))

    @property
    def _uses_similarity(self) -> bool:
        return "similarity" in self.evidence

    def _log_likelihood_ratio(self, evidence: float) -> float:
        """Return ln(P(evidence | same) / P(evidence | different)), within what the pairs support."""
        if self.slope is not None and self.intercept is not None:
            log_odds = self.intercept + self.slope * evidence
        else:
            log_odds = _logit(float(np.interp(evidence, self.knots, self.levels)))
        ratio = log_odds - _logit(self.prior)
        return min(max(ratio, -math.log(self.positives + 2)), math.log(self.negatives + 2))


def calibration_beside(checkpoint: str | os.PathLike[str]) -> Path:
    """Return where the calibration of a checkpoint file lies if it has one: ``NAME.calibration.json``."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}.calibration.json")


def load_calibration(
    checkpoint: str | os.PathLike[str], *, profile: Profile | None = None, identity: str | None = None
) -> Calibration | None:
    """Load the calibration that lies beside a checkpoint, if there is one that holds.

    Parameters
    ----------
    checkpoint : path
        Of the checkpoint's file (`delf_engine.model.checkpoint_path`), or of a calibration (``.json``).
    profile : Profile or None
        That pairs are extracted and verified with.
    identity : str or None
        Of the model (`CheckpointInfo.identity`).

    Returns
    -------
    Calibration or None
        None if there is no file beside the checkpoint, or it was fitted for another model or other options: no
        probability rather than a wrong one.

    Raises
    ------
    FormatError
        If the file is damaged, or a calibration that was named outright is missing.
    MismatchError
        If a calibration that was named outright does not hold for this model and these options.
    """
    named = Path(checkpoint).suffix == ".json"
    path = Path(checkpoint) if named else calibration_beside(checkpoint)
    if not named and not path.is_file():
        return None
    found = Calibration.load(path)
    if found.holds_for(profile=profile, checkpoint=identity):
        return found
    if named:
        raise MismatchError(
            f"{path}: fitted for model {found.checkpoint or '(unknown)'} and profile "
            f"{found.profile or '(unknown)'}, not for {identity or 'this model'} and "
            f"{profile.name if profile else 'this profile'}; fit another one (delf-engine calibrate)"
        )
    return None


def _checked_prior(prior: float) -> float:
    if not 0 < prior < 1:
        raise ConfigError(f"the prior is a share above 0 and below 1, got {prior}")
    return prior


def _logit(p: float) -> float:
    if p in (0, 1):
        return -math.inf if p == 0 else math.inf
    return math.log(p) - math.log1p(-p)


def _logistic(log_odds: float) -> float:
    odds = math.exp(-abs(log_odds))
    p = odds / (1 + odds) if log_odds < 0 else 1 / (1 + odds)
    # A prior may be so extreme that floats end before the pairs' support does.
    return min(max(p, math.nextafter(0, 1)), math.nextafter(1, 0))
