"""`Calibration`: from the evidence of a `Verification` to a probability that two photographs show one place.

Logistic curves, fitted once on labelled pairs and kept as a JSON file, beside the checkpoint if it is that
checkpoint's own; what it then needs is NumPy's and Python's own arithmetic.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from delf_engine.config import Config, Profile
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.support.arrays import check_array
from delf_engine.support.files import replacing, system_errors
from delf_engine.verification.curve import Curve, Evidence, Probability, logistic, logit
from delf_engine.verification.result import Verification

_FORMAT = "delf-engine calibration"
_VERSION = 2

Labels = npt.NDArray[np.bool_]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

#: Of the coarse evidence that a calibration may depend on, and what the fine one adds.
COARSE: tuple[Evidence, ...] = ("inliers", "inlier_similarity", "log_inliers", "log_inlier_similarity")
_FINE: tuple[Evidence, ...] = ("log_epipolar", "log_planar")

#: Pairs of either label that a fit needs.
MINIMUM_PAIRS = 10


class Calibration(Config):
    """How probable it is that two photographs show the same place, given what their verification found.

    One curve for coarse evidence alone and, where the pairs had it, one for coarse and fine evidence together; or
    one for fine evidence alone, which holds whatever made the coarse features. See `Curve`. At prior 0.5 no
    probability is below 1 / (positives + 3) or above 1 - 1 / (negatives + 3).

    Attributes
    ----------
    evidence : str or None
        The coarse evidence, a name of `EVIDENCE`; None: it does not count.
    prior : float
        Share of pairs of one place that the curves hold for.
    coarse, fine : Curve or None
    trained_on : str
        What they were, in words.
    checkpoint, profile : str or None
        Identity of the model that made the features, and name of their profile, if known.
    verification_sha256, extraction_sha256, fine_sha256 : str or None
        Of that profile's options: all of verification but `min_inliers`, all of extraction but `precision`, which
        is the machine's, and `max_pixels`, and all of fine evidence. Those at their defaults do not count, so that
        a new option does not change the hash.
    geometry, estimator, residual_px, reference_size, exponent
        As in `Verification`, whose `model` is `geometry`; None where coarse evidence does not count.
    """

    evidence: Evidence | None
    prior: Probability
    coarse: Curve | None
    fine: Curve | None = None
    trained_on: str
    checkpoint: str | None = None
    profile: str | None = None
    verification_sha256: Sha256 | None = None
    extraction_sha256: Sha256 | None = None
    fine_sha256: Sha256 | None = None
    geometry: str | None = None
    estimator: str | None = None
    residual_px: float | None = None
    reference_size: int | None = None
    exponent: float | None = None

    @model_validator(mode="after")
    def _whole(self) -> Calibration:
        needed = {"coarse", "geometry", "estimator", "residual_px", "exponent"} if self.evidence else {"fine"}
        missing = sorted(name for name in needed if getattr(self, name) is None)
        if missing:
            raise ValueError(f"with evidence {self.evidence!r} there must be {', '.join(missing)}")
        return self

    @classmethod
    def fit(
        cls,
        verifications: Sequence[Verification],
        labels: npt.ArrayLike,
        *,
        evidence: Evidence | None = "inlier_similarity",
        prior: float = 0.5,
        trained_on: str,
        checkpoint: str | None = None,
        profile: Profile | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> Calibration:
        """Fit a calibration to pairs of photographs of which it is known whether they show the same place.

        The same pairs in any order give the same bits.

        Parameters
        ----------
        verifications : sequence of N Verification
            All made with the same options. Where 10 of either label have fine evidence, that has a curve, too.
        labels : (N,) of 0 and 1
            1: the same place. 10 of either label at least.
        evidence : str or None
            A name of `EVIDENCE`; None: fine evidence alone, whatever model and options the pairs have.
        prior : float
            Share of pairs of one place that probabilities are to hold for, above 0 and below 1. The labels are
            weighted to it; the share among the given pairs does not matter.
        trained_on, checkpoint
            As the attributes.
        profile : Profile or None
            With which the pairs were extracted and verified.
        weights : (N,) float or None
            How many pairs each one stands for, above 0, where only some of many were taken; None: for itself.

        Raises
        ------
        DataError
            If there are too few pairs of a label, with fine evidence if that is all that counts, numbers of pairs
            and labels differ, labels are not 0 and 1, evidence is not finite, or pairs of one place have no more
            inliers than the others.
        MismatchError
            If the verifications were made with different options, or with others than the profile's.
        ConfigError
            If `evidence` or `prior` is not one of those above.
        """
        check_options(evidence, prior)
        same = checked_labels(labels, len(verifications))
        detailed = np.array([v.fine is not None and v.fine.conclusive for v in verifications])
        stand_for = check_array(
            "weights", np.ones(len(same)) if weights is None else weights, np.float64, same.shape, error=DataError
        )
        values: dict[str, Any] = {
            "evidence": evidence,
            "prior": float(prior),
            "coarse": None,
            "fine": None,
            "trained_on": trained_on,
            **({} if profile is None else _hashes(profile)),
        }
        if evidence is None:
            checked_labels(same[detailed], int(detailed.sum()))
            values |= {"verification_sha256": None, "extraction_sha256": None}
        else:
            values |= {"checkpoint": checkpoint, "profile": None if profile is None else profile.name}
            values |= _common_options(verifications, profile)
            values["coarse"] = Curve.fit(verifications, same, (evidence,), prior, stand_for)
        if min(np.count_nonzero(detailed & same), np.count_nonzero(detailed & ~same)) >= MINIMUM_PAIRS:
            seen = [v for v, own in zip(verifications, detailed, strict=True) if own]
            used = _FINE if evidence is None else (evidence, *_FINE)
            values["fine"] = Curve.fit(seen, same[detailed], used, prior, stand_for[detailed])
        return cls(**values)

    def probability(self, verification: Verification, *, prior: float | None = None) -> float:
        """Return the probability that two photographs show the same place.

        `prior` is the share of pairs of one place among those that are asked about, above 0 and below 1; None:
        that of the calibration.

        Raises
        ------
        MismatchError
            As `check`.
        DataError
            If its evidence is not finite, or it lacks the fine evidence that alone counts.
        ConfigError
            If `prior` is out of range.
        """
        return float(self.probabilities([verification], prior=prior)[0])

    def probabilities(
        self, verifications: Iterable[Verification], *, prior: float | None = None
    ) -> npt.NDArray[np.float64]:
        """Return `probability` of each verification, (N,) float64; the same bits as one by one."""
        items = list(verifications)
        offset = logit(_checked_prior(self.prior if prior is None else prior))
        for number, verification in enumerate(items):
            self.check(verification)
            if self.coarse is None and verification.fine is None:
                raise DataError(f"pair {number} (counted from 0) has no fine evidence, which alone counts here")
        out = np.full(len(items), logistic(offset))  # where nothing says anything
        for curve in (self.coarse, self.fine):
            if curve is None:
                continue
            rows = [i for i, item in enumerate(items) if self.curve_for(item) is curve]
            ratios = curve.ratios([items[i] for i in rows], self.prior)
            if curve is self.fine:  # what no detail supports is never surer than "unsure", however much is alike
                bare = [not fine.details for fine in (items[i].fine for i in rows) if fine is not None]
                ratios = np.where(bare, np.minimum(ratios, logit(curve.accept) - logit(self.prior) - 1e-6), ratios)
            out[rows] = [logistic(ratio + offset) for ratio in ratios.tolist()]
        return out

    def curve_for(self, verification: Verification) -> Curve | None:
        """Return the curve that judges a verification: with the fine evidence if both have it. None: none can."""
        fine = verification.fine
        return self.coarse if self.fine is None or fine is None or not fine.conclusive else self.fine

    def judged(self, verification: Verification) -> Verification:
        """Return a verification with its probability, at the calibration's prior, and so with its verdict.

        One that no curve judges is returned as it is, or as unsure if only details are missing.

        Raises
        ------
        MismatchError, DataError
            As `probability`.
        """
        curve = self.curve_for(verification)
        if curve is None:
            # Of a photograph too small for details nothing is known, unless the coarse matches deny it.
            if verification.fine is None or self.fine is None or verification.inliers < verification.min_inliers:
                return verification
            curve = self.fine
        return replace(verification, probability=self.probability(verification), accept=curve.accept)

    def check(self, verification: Verification) -> None:
        """Refuse, by a `MismatchError`, a verification that was made with other options than the pairs of the fit.

        An exponent that no evidence depends on may differ.
        """
        if self.evidence is None:
            return
        for what, found in _options_of(verification).items():
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

        Parameters
        ----------
        profile : Profile or None
        checkpoint : str or None
            Identity of the model (`CheckpointInfo.identity`).
        """
        known = [(self.checkpoint, checkpoint)]
        if profile is not None:
            known += [(getattr(self, name), value) for name, value in _hashes(profile).items()]
            if self._uses_similarity and profile.ranking.exponent != self.exponent:
                return False
        return all(ours is None or theirs is None or ours == theirs for ours, theirs in known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {"format": _FORMAT, "format_version": _VERSION, **self.model_dump(mode="json")}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, at once or not at all; `FormatError` if that cannot be."""
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
            If it cannot be read, is no calibration, of another format version, or a value is missing, unknown or
            bad.
        """
        where = os.fspath(path)
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise FormatError(f"{where}: cannot be read as a calibration: {error}") from error
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise FormatError(
                f"{where}: not a calibration (no format {_FORMAT!r}); delf-engine calibrate makes one"
            )
        version = values.pop("format_version", None)
        if version != _VERSION:
            raise FormatError(f"{where}: format version {version!r}, this version reads {_VERSION}; fit it again")
        try:
            return cls.model_validate(values)  # not from JSON: a name of a file need not be UTF-8
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))!r}: {each['msg']}" for each in error.errors())
            raise FormatError(f"{where}: {problems}; fit it again (delf-engine calibrate)") from error

    @property
    def _uses_similarity(self) -> bool:
        return self.evidence is not None and "similarity" in self.evidence


def load_calibration(
    checkpoint: str | os.PathLike[str], *, profile: Profile | None = None, identity: str | None = None
) -> Calibration | None:
    """Load the calibration that lies beside a checkpoint; None if there is none, or none that holds.

    No probability rather than a wrong one: it must have been fitted for this model and these options.

    Parameters
    ----------
    checkpoint : path
        Of the checkpoint's file (`delf_engine.model.checkpoint_path`), beside which calibrations lie as
        ``NAME.calibration.json`` and, for further profiles, ``NAME.PROFILE.calibration.json``; or of a
        calibration (``.json``).
    profile : Profile or None
        That pairs are extracted and verified with.
    identity : str or None
        Identity of the model (`CheckpointInfo.identity`).

    Raises
    ------
    FormatError
        If a file is damaged, or a calibration that was named outright is missing.
    MismatchError
        If a calibration that was named outright does not hold for this model and these options.
    """
    path = Path(checkpoint)
    named = path.suffix == ".json"
    beside = sorted(path.parent.glob(f"{glob.escape(path.stem)}.*calibration.json"))
    for file in [path] if named else beside:
        found = Calibration.load(file)
        if found.holds_for(profile=profile, checkpoint=identity):
            return found
        if named:
            raise MismatchError(
                f"{path}: fitted for model {found.checkpoint or '(unknown)'} and profile "
                f"{found.profile or '(unknown)'}, not for {identity or 'this model'} and "
                f"{profile.name if profile else 'this profile'}; fit another one (delf-engine calibrate)"
            )
    return None


def checked_labels(labels: npt.ArrayLike, pairs: int) -> Labels:
    """Return the labels of `pairs` pairs as booleans; `DataError` if they are no such, or too few of either."""
    values = np.asarray(labels)
    if values.shape != (pairs,):
        raise DataError(f"one label a pair is needed, got labels of shape {values.shape} for {pairs} pairs")
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError("labels must be 1 (the same place) or 0 (different places)")
    same = values.astype(bool)
    for label, count in ((1, int(same.sum())), (0, int((~same).sum()))):
        if count < MINIMUM_PAIRS:
            raise DataError(
                f"{count} pairs with label {label} are too few: calibration needs {MINIMUM_PAIRS} of either label"
            )
    return same


def _options_of(verification: Verification) -> dict[str, Any]:
    """Return the options of a verification that its evidence depends on, by their names in a `Calibration`."""
    names = ("estimator", "residual_px", "reference_size", "exponent")
    return {"geometry": verification.model, **{name: getattr(verification, name) for name in names}}


def _common_options(verifications: Sequence[Verification], profile: Profile | None) -> dict[str, Any]:
    """Return the options of all verifications, which must be alike, and those of the profile if there is one."""
    first = _options_of(verifications[0])
    for number, verification in enumerate(verifications):
        if _options_of(verification) != first:
            raise MismatchError(
                f"pair {number} (counted from 0) was verified with other options than the first one: "
                f"{_options_of(verification)} and {first}; verify all pairs alike"
            )
    if profile is not None:
        config = {**profile.verification.model_dump(), "exponent": profile.ranking.exponent}
        expected = {name: config["model" if name == "geometry" else name] for name in first}
        if expected != first:
            raise MismatchError(f"the pairs were verified with {first}, profile {profile.name!r} has {expected}")
    return first


def _hashes(profile: Profile) -> dict[str, str]:
    """Return hashes of the options that evidence depends on, by their names in a `Calibration`."""
    return {
        "verification_sha256": _sha256(profile.verification, {"min_inliers"}),
        "extraction_sha256": _sha256(profile.extraction, {"precision", "max_pixels"}),
        "fine_sha256": _sha256(profile.fine, set()),
    }


def _sha256(config: Config, left_out: set[str]) -> str:
    values = config.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_options(evidence: str | None, prior: float) -> None:
    """Raise `ConfigError` unless there is such evidence, and the prior is a share."""
    if evidence is not None and evidence not in COARSE:
        raise ConfigError(f"there is no calibration evidence {evidence!r}; known: {', '.join(COARSE)}")
    _checked_prior(prior)


def _checked_prior(prior: float) -> float:
    if not 0 < prior < 1:
        raise ConfigError(f"the prior is a share above 0 and below 1, got {prior}")
    return prior
