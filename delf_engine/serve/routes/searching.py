"""Verify two photographs; search by a photograph, an id, a box; re-rank a shortlist."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query

from delf_engine.engine import searching
from delf_engine.engine.searching import SearchOptions
from delf_engine.serve import answers
from delf_engine.serve.answers import Box, Found, Pair
from delf_engine.serve.problems import Refused
from delf_engine.serve.routes.common import Given, RefForm, RefQuery, Served, Upload, compared, opened, parsed_box
from delf_engine.serve.service import Service

router = APIRouter(prefix="/v1", tags=["search"])

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
    return await service.work.run(_verified, service, (a, file_a), (b, file_b))


@router.get("/verify")
async def verify_known(service: Served, a: RefQuery, b: RefQuery) -> Pair:
    """Do two known photographs show the same place?"""
    return await service.work.run(_verified, service, (a, None), (b, None))


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
    """Find images that show what a photograph shows, or a box of it. An image does not find itself."""
    options = SearchOptions(top_k, top_n, confirm=confirm, candidates=candidates)
    return await service.work.run(_searched, service, (id, file), parsed_box(box), options, expand, graph)


@router.get("/search")
async def search_known(
    service: Served,
    id: RefQuery,  # noqa: A002
    box: Annotated[str | None, Query(description="only this part of it: x0,y0,x1,y1 in pixels")] = None,
    top_k: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Found:
    """Find images that show what a known photograph shows, or a box of it."""
    options = SearchOptions(top_k, None, confirm=10)
    return await service.work.run(_searched, service, (id, None), parsed_box(box), options)


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
    region = parsed_box(box)
    if scores and len(scores) != len(shortlist):
        raise Refused(422, "bad_shortlist", "there must be one score for each id, or none at all")

    def work() -> Found:
        state, (query,) = opened(service, (id, file), box=region)
        entries: list[Any] = list(zip(shortlist, scores, strict=True)) if scores else shortlist
        there = state.known(shortlist)
        known = [entry for entry, each in zip(entries, shortlist, strict=True) if each in there]
        options = SearchOptions(top_k, top_n, distances=distances, confirm=confirm)
        with service.metrics.stage("answer"):
            found = searching.rerank(service.metrics.timed(state), query.source, known, options, box=region)
        unknown = [each for each in dict.fromkeys(shortlist) if each not in there]
        return answers.hits(state, query, found, service.database).model_copy(update={"unknown": unknown})

    return await service.work.run(work)


def _verified(service: Service, a: Given, b: Given) -> Pair:
    state, first, second, found = compared(service, a, b)
    return answers.pair(first, second, found, state.calibration, service.database)


def _searched(
    service: Service,
    given: Given,
    box: Box | None,
    options: SearchOptions,
    expand: bool = False,
    graph: bool = False,
) -> Found:
    state, (query,) = opened(service, given, box=box)
    own = [query.ref] if query.is_image else []
    with service.metrics.stage("answer"):
        found = searching.search(
            service.metrics.timed(state),
            query.source,
            replace(options, exclude=own),
            box=box,
            expand=expand,
            graph=graph,
        )
    return answers.hits(state, query, found, service.database)
