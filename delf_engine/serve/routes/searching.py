"""Verify two photographs; search by a photograph, an id, a box; re-rank a shortlist."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form

from delf_engine.engine import searching
from delf_engine.engine.searching import SearchOptions
from delf_engine.engine.state import EngineState
from delf_engine.engine.views import verify_views
from delf_engine.serve import answers
from delf_engine.serve.answers import Box, Found, Pair
from delf_engine.serve.photographs import Photograph
from delf_engine.serve.problems import Refused
from delf_engine.serve.routes.common import RefForm, Served, Upload, parsed_box, uploaded
from delf_engine.serve.service import Service

router = APIRouter(tags=["search"])

BoxForm = Annotated[str | None, Form(description="only this part of the photograph: x0,y0,x1,y1 in pixels")]
TopK = Annotated[int, Form(ge=1, le=1000)]
TopN = Annotated[int | None, Form(ge=0, le=1000, description="candidates to verify")]
Confirm = Annotated[int, Form(ge=0, le=100, description="first hits that are looked at in detail")]


@router.post("/verify")
async def verify(
    service: Served,
    file_a: Upload = None,
    file_b: Upload = None,
    a: RefForm = None,
    b: RefForm = None,
) -> Pair:
    """Do two photographs, uploads or known ones, show the same place?"""
    sides = (a, await uploaded(service, file_a)), (b, await uploaded(service, file_b))

    def work() -> Pair:
        state, photographs = _opened(service, *sides)
        timed = service.metrics.timed(state)
        views = [timed.view_of(each.source) for each in photographs]
        with service.metrics.stage("answer"):
            found = verify_views(*views, state.manifest.profile, calibration=state.calibration)
        return answers.pair(*photographs, found, state.calibration, service.database)

    return await service.work.run(work)


@router.post("/search")
async def search(
    service: Served,
    file: Upload = None,
    id: RefForm = None,  # noqa: A002 - its name in the API
    box: BoxForm = None,
    top_k: TopK = 20,
    top_n: TopN = None,
    confirm: Confirm = 10,
    candidates: Annotated[Literal["global", "fused"] | None, Form()] = None,
    expand: Annotated[bool, Form()] = False,
    graph: Annotated[bool, Form()] = False,
) -> Found:
    """Find images that show what a photograph shows, or a box of it; an image of the engine does not find itself."""
    data, region = await uploaded(service, file), parsed_box(box)

    def work() -> Found:
        state, (query,) = _opened(service, (id, data), box=region)
        own = [query.ref] if query.is_image else []
        options = SearchOptions(top_k, top_n, exclude=own, confirm=confirm, candidates=candidates)
        with service.metrics.stage("answer"):
            found = searching.search(
                service.metrics.timed(state), query.source, options, box=region, expand=expand, graph=graph
            )
        return answers.hits(state, query, found, service.database)

    return await service.work.run(work)


@router.post("/rerank")
async def rerank(
    service: Served,
    shortlist: Annotated[list[str], Form(description="ids, best first", min_length=1)],
    scores: Annotated[list[float] | None, Form(description="one for each id; none: no scores")] = None,
    distances: Annotated[bool, Form(description="lower scores are better")] = False,
    file: Upload = None,
    id: RefForm = None,  # noqa: A002
    box: BoxForm = None,
    top_k: TopK = 20,
    top_n: TopN = None,
    confirm: Confirm = 10,
) -> Found:
    """Order the images that another search has found by geometric verification."""
    data, region = await uploaded(service, file), parsed_box(box)
    if scores and len(scores) != len(shortlist):
        raise Refused(422, "bad_shortlist", "there must be one score for each id, or none at all")

    def work() -> Found:
        state, (query,) = _opened(service, (id, data), box=region)
        entries: list[Any] = list(zip(shortlist, scores, strict=True)) if scores else shortlist
        known = [entry for entry, each in zip(entries, shortlist, strict=True) if each in state.store]
        options = SearchOptions(top_k, top_n, distances=distances, confirm=confirm)
        with service.metrics.stage("answer"):
            found = searching.rerank(service.metrics.timed(state), query.source, known, options, box=region)
        unknown = [each for each in dict.fromkeys(shortlist) if each not in state.store]
        return answers.hits(state, query, found, service.database).model_copy(update={"unknown": unknown})

    return await service.work.run(work)


def _opened(
    service: Service, *given: tuple[str | None, bytes | None], box: Box | None = None
) -> tuple[EngineState, list[Photograph]]:
    """Return the photographs, and the state that knows them; it has its model if pixels are to be extracted."""
    state = service.engine.state
    found = [service.photographs.open(state, *each) for each in given]
    if box is not None or not all(each.is_image for each in found):
        state = service.loaded()
        for each in found:
            if each.is_image and each.ref not in state.store:
                raise Refused(404, "unknown_image", "the image has just been removed")
    return state, found
