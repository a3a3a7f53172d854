"""What all routers take: the service, uploads, boxes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, File, Form, Query, Request, UploadFile

from delf_engine.engine.state import EngineState
from delf_engine.engine.views import PairAnswer, verify_views
from delf_engine.serve.answers import Box
from delf_engine.serve.photographs import Photograph
from delf_engine.serve.problems import Refused
from delf_engine.serve.service import Service


def service_of(request: Request) -> Service:
    """Return the service of the application."""
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(service_of)]
Upload = Annotated[UploadFile | None, File(description="a photograph")]
RefForm = Annotated[str | None, Form(description="the id of an image, or the ref of an upload")]
RefQuery = Annotated[str, Query(description="the id of an image, or the ref of an upload")]


def parsed_box(text: str | None) -> Box | None:
    """Parse ``x0,y0,x1,y1``; `Refused` (422) if it is not four numbers."""
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise Refused(422, "bad_box", "a box is four numbers x0,y0,x1,y1 in pixels") from None
    return x0, y0, x1, y1


#: A photograph as a request gives it: its ref, or its file.
Given = tuple[str | None, UploadFile | None]


def opened(service: Service, *given: Given, box: Box | None = None) -> tuple[EngineState, list[Photograph]]:
    """Return the photographs, and the state that knows them; it has its model if pixels are to be extracted."""
    state = service.engine.state
    found = [service.photographs.open(state, ref, _bytes(service, file)) for ref, file in given]
    if box is not None or not all(each.is_image for each in found):
        service.load(state)
    return state, found


def compared(service: Service, a: Given, b: Given) -> tuple[EngineState, Photograph, Photograph, PairAnswer]:
    """Return two photographs and what their verification has found."""
    state, (first, second) = opened(service, a, b)
    timed = service.metrics.timed(state)
    views = timed.view_of(first.source), timed.view_of(second.source)
    with service.metrics.stage("answer"):
        found = verify_views(*views, state.manifest.profile, calibration=state.calibration)
    return state, first, second, found


def _bytes(service: Service, file: UploadFile | None) -> bytes | None:
    """Return the bytes of an uploaded file, if there is one: only now, since what waits lies on the disk."""
    if file is None:
        return None
    if (file.size or 0) > service.settings.max_bytes:
        raise Refused(413, "too_large", f"a photograph has {service.settings.max_bytes} bytes at most")
    return file.file.read()
