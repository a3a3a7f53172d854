"""Verdicts on pairs, and the calibration that they teach."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from delf_engine.serve import verdicts
from delf_engine.serve.jobs import Job
from delf_engine.serve.routes.common import RefQuery, Served
from delf_engine.serve.verdicts import Calibrations, Verdict

router = APIRouter(prefix="/v1", tags=["verdicts"])


@router.get("/verdicts")
def list_verdicts(service: Served) -> list[Verdict]:
    """List what was said of pairs, the latest last."""
    return verdicts.listed(service)


@router.post("/verdicts", status_code=201)
def keep_verdict(service: Served, given: Verdict) -> Verdict:
    """Keep what is said of a pair, in place of what was said before."""
    service.check_writable()
    return verdicts.keep(service, given)


@router.delete("/verdicts", status_code=204)
def forget_verdict(service: Served, a: RefQuery, b: RefQuery) -> None:
    """Forget what was said of a pair."""
    service.check_writable()
    verdicts.remove(service, a, b)


@router.get(
    "/verdicts/pairs.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}, "description": "columns a, b, label, verdict"}},
)
def export_pairs(service: Served) -> Response:
    """Return the pairs as `delf-engine calibrate` reads them."""
    headers = {"Content-Disposition": 'attachment; filename="pairs.csv"'}
    return PlainTextResponse(verdicts.pairs_csv(service), headers=headers, media_type="text/csv")


@router.post("/calibration", status_code=202)
def recalibrate(service: Served) -> Job:
    """Fit a calibration to the verdicts: a job, whose result is proposed and not yet in use."""
    service.check_writable()
    count = len(verdicts.listed(service))
    return service.jobs.submit("recalibrate", count, lambda control: verdicts.recalibrate(service, control))


@router.get("/calibration")
def calibration(service: Served) -> Calibrations:
    """Return the calibration in use, and the reliability of what is proposed beside it."""
    return verdicts.calibrations(service)


@router.put("/calibration")
def take_calibration_over(service: Served) -> Calibrations:
    """Use the calibration that is proposed, from the next answer on."""
    service.check_writable()
    return verdicts.take_over(service)


@router.delete("/calibration/proposal")
def discard_proposal(service: Served) -> Calibrations:
    """Forget the calibration that is proposed; the one in use stays."""
    service.check_writable()
    return verdicts.discard(service)


@router.delete("/calibration")
def give_calibration_up(service: Served) -> Calibrations:
    """Use the model's own calibration again."""
    service.check_writable()
    return verdicts.give_up(service)
