"""What people say of pairs, and what a calibration learns from it: proposed first, taken over when they say so."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from delf_engine.engine.state import EngineState
from delf_engine.errors import DataError, ImageError, ProcessDiedError
from delf_engine.evaluation.calibration_figures import binned, expected_calibration_error, roc_auc
from delf_engine.serve.jobs import Control, Failure, JobFailed
from delf_engine.serve.problems import Refused, readable
from delf_engine.serve.service import Service
from delf_engine.support.files import replacing
from delf_engine.verification import Calibration, Verification
from delf_engine.verification.calibrating import LabelledPair, calibrate_verified, verified_pairs

_BINS = 10
_PROPOSAL, _PROPOSED = "proposal.json", "proposed.calibration.json"


class Verdict(BaseModel):
    """What somebody says of two photographs, given by their refs; a look-alike is another place."""

    a: str
    b: str
    verdict: Literal["same", "different", "look-alike"]


class Bin(BaseModel):
    """Pairs of like probability: its mean, the share of them that show the same place, their number."""

    stated: float
    share: float
    pairs: int


class Reliability(BaseModel):
    """How far probabilities can be trusted: expected calibration error, and area under the ROC curve."""

    pairs: int
    error: float
    auc: float
    bins: list[Bin]


class Proposal(BaseModel):
    """A calibration by the verdicts, beside the one in use.

    `old` judges the pairs by the calibration in use, `new` by those that have seen neither place of a pair; None
    where too few pairs are judged.
    """

    at: float
    pairs: int
    old: Reliability | None
    new: Reliability | None


class Calibrations(BaseModel):
    """The calibration in use, and the one that is proposed."""

    own: bool
    trained_on: str | None
    proposed: Proposal | None


def keep(service: Service, given: Verdict) -> Verdict:
    """Keep a verdict in place of an earlier one of the pair."""
    state = service.engine.state
    for ref in (given.a, given.b):
        service.photographs.path(state, ref)
    if given.a == given.b:
        raise Refused(422, "one_photograph", "a pair has two photographs")
    a, b = sorted((given.a, given.b))
    statement = "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)"
    service.database.run(statement, a, b, given.verdict, time.time())
    return Verdict(a=a, b=b, verdict=given.verdict)


def listed(service: Service) -> list[Verdict]:
    """Return all verdicts, the latest last."""
    return [
        Verdict(**row) for row in service.database.rows("SELECT a, b, verdict FROM verdicts ORDER BY at, a, b")
    ]


def remove(service: Service, a: str, b: str) -> None:
    """Forget a verdict; `Refused` if there is none."""
    if not service.database.run("DELETE FROM verdicts WHERE a = ? AND b = ?", *sorted((a, b))):
        raise Refused(404, "unknown_pair", "there is no verdict on this pair")


def pairs_csv(service: Service) -> str:
    """Return verdicts as ``delf-engine calibrate`` reads them; uploads are paths from the server's folder."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("a", "b", "label", "verdict"))
    for each in listed(service):
        names = (ref.replace("upload:", "uploads/", 1) for ref in (each.a, each.b))
        rows.writerow((*names, int(each.verdict == "same"), each.verdict))
    return out.getvalue()


def recalibrate(service: Service, control: Control) -> dict[str, Any]:
    """Fit a calibration to the verdicts and propose it: the work of a job."""
    state = service.engine.state
    service.load(state)
    pairs = [LabelledPair(each.a, each.b, int(each.verdict == "same")) for each in listed(service)]
    sources, failed = _sources(service, state, pairs)
    pairs = [pair for pair in pairs if pair.a in sources and pair.b in sources]
    profile, current = state.manifest.profile, state.calibration
    features = {ref: state.features_of(source) for ref, source in sources.items()}
    found = verified_pairs(
        pairs, features, profile, fine=lambda ref: state.fine_of(sources[ref]), progress=control.progress
    )
    try:
        calibration, check = calibrate_verified(
            pairs,
            found,
            profile,
            trained_on=f"{len(pairs)} verdicts",
            checkpoint=state.manifest.model_identity,
        )
    except DataError as error:
        raise JobFailed("too_few_pairs") from error
    proposal = Proposal(
        at=time.time(),
        pairs=len(pairs),
        old=None if current is None else _of_current(current, found, [pair.label for pair in pairs]),
        new=_reliability(check.probabilities, check.labels, check.prior),
    )
    calibration.save(service.home / _PROPOSED)
    with replacing(service.home / _PROPOSAL) as temporary:
        temporary.write_text(proposal.model_dump_json())
    return {"failed": [each.model_dump() for each in failed]}


def calibrations(service: Service) -> Calibrations:
    """Return what is in use and what is proposed."""
    state = service.engine.state
    proposal, current = service.home / _PROPOSAL, state.calibration
    return Calibrations(
        own=state.has_own_calibration,
        trained_on=None if current is None else current.trained_on,
        proposed=Proposal.model_validate_json(proposal.read_bytes()) if proposal.exists() else None,
    )


def take_over(service: Service) -> Calibrations:
    """Use the calibration that is proposed; `Refused` (409) if none is."""
    if not (service.home / _PROPOSAL).exists():
        raise Refused(409, "nothing_proposed", "no calibration is proposed; start a job that does")
    _use(service, Calibration.load(service.home / _PROPOSED))
    return discard(service)


def discard(service: Service) -> Calibrations:
    """Forget the calibration that is proposed, if one is."""
    (service.home / _PROPOSAL).unlink(missing_ok=True)
    return calibrations(service)


def give_up(service: Service) -> Calibrations:
    """Use the calibration of the model again."""
    _use(service, None)
    return calibrations(service)


def _use(service: Service, calibration: Calibration | None) -> None:
    with service.writing() as engine:
        engine.use_calibration(calibration)


def _sources(
    service: Service, state: EngineState, pairs: Sequence[LabelledPair]
) -> tuple[dict[str, Any], list[Failure]]:
    """Return what the engine takes for each photograph, and those that are gone or cannot be read."""
    found: dict[str, Any] = {}
    failed = []
    for ref in dict.fromkeys(ref for pair in pairs for ref in pair[:2]):
        try:
            found[ref] = service.photographs.open(state, ref, None).source
        except Refused as error:
            failed.append(Failure(name=ref, reason=str(error.detail)))
        except ImageError as error:
            failed.append(Failure(name=ref, reason=readable(error.reason)))
        except ProcessDiedError:
            failed.append(Failure(name=ref, reason="the decoder died of it"))
    return found, failed


def _of_current(current: Calibration, found: Sequence[Verification], labels: Sequence[int]) -> Reliability | None:
    judged = [current.judged(each).probability for each in found]
    kept = [(p, label) for p, label in zip(judged, labels, strict=True) if p is not None]
    values, truth = np.array(kept, np.float64).reshape(-1, 2).T
    return _reliability(values, truth, current.prior)


def _reliability(values: npt.NDArray[Any], labels: npt.NDArray[Any], prior: float) -> Reliability | None:
    if len(set(labels.tolist())) < 2:
        return None
    p, truth, of_bin = binned(values, labels, _BINS)
    bins = [
        Bin(stated=p[of_bin == i].mean(), share=truth[of_bin == i].mean(), pairs=int((of_bin == i).sum()))
        for i in np.unique(of_bin)
    ]
    error = expected_calibration_error(p, truth, bins=_BINS, prior=prior)
    return Reliability(pairs=len(p), error=error, auc=roc_auc(p, truth), bins=bins)
