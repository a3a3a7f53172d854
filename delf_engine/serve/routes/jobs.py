"""Jobs: how far they are, what became of each photograph, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from delf_engine.serve.jobs import Job
from delf_engine.serve.routes.common import Served

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_LOOK_SECONDS = 0.25


class _Events(EventSourceResponse):
    media_type = None  # type: ignore[assignment]  # or refusals would be described as events, too


@router.get("")
def list_jobs(service: Served) -> list[Job]:
    """List the latest jobs, the newest first."""
    return service.jobs.latest()


@router.get("/{job_id}")
def job(service: Served, job_id: str) -> Job:
    """Return a job."""
    return service.jobs.get(job_id)


@router.delete("/{job_id}")
def cancel_job(service: Served, job_id: str) -> Job:
    """Ask a job to end: what it has committed stays, the rest is left out."""
    return service.jobs.cancel(job_id)


def _known(service: Served, job_id: str) -> Job:
    """Return a job before the answer to its followers begins."""
    return service.jobs.get(job_id)


@router.get("/{job_id}/events", response_class=_Events)
async def job_events(service: Served, known: Annotated[Job, Depends(_known)]) -> AsyncIterator[ServerSentEvent]:
    """Follow a job: an event ``progress`` whenever it is further, and ``end`` when it has ended."""
    seen = None
    while not service.stopping:
        now = await run_in_threadpool(service.jobs.get, known.id)
        if now.ended:
            yield ServerSentEvent(data=now, event="end")
            return
        if now != seen:
            yield ServerSentEvent(data=now, event="progress")
            seen = now
        await asyncio.sleep(_LOOK_SECONDS)
