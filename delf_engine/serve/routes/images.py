"""The library: list, add, remove; pictures of photographs and of pairs."""

from __future__ import annotations

import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Query, Response, UploadFile
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from delf_engine.errors import UnknownIdError
from delf_engine.serve import answers
from delf_engine.serve.adding import PHOTOGRAPHS, add_folder, add_uploads
from delf_engine.serve.answers import Photo
from delf_engine.serve.decoding import encoded
from delf_engine.serve.duplicates import find_duplicates
from delf_engine.serve.jobs import Failure, Job
from delf_engine.serve.photographs import shown_name
from delf_engine.serve.problems import Refused
from delf_engine.serve.routes.common import RefQuery, Served, compared
from delf_engine.serve.service import Service

router = APIRouter(prefix="/v1", tags=["images"])

_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "a JPEG without metadata"}
}


class Images(BaseModel):
    """A page of the library, in the order of adding."""

    total: int
    images: list[Photo]


class Removed(BaseModel):
    """How many images were removed."""

    removed: int


class FolderJob(BaseModel):
    """Which of the operator's folders is to be added, by its name."""

    folder: str


@router.get("/images")
async def list_images(
    service: Served,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Images:
    """List images."""

    def work() -> Images:
        state = service.engine.state
        page = state.page(offset, limit)
        names = service.database.names(page)
        found = zip(page, state.store.get_many(page), strict=True)
        return Images(total=len(state.store), images=[answers.photo(*each, names) for each in found])

    return await service.work.run(work)


@router.post("/images", status_code=202)
async def add_images(
    service: Served, files: Annotated[list[UploadFile], File(description="photographs", min_length=1)]
) -> Job:
    """Add photographs: a job, which tells the id of each, and why one could not be read."""
    service.check_writable()
    return await run_in_threadpool(_queued, service, files)


@router.post("/folders", status_code=202)
async def add_folder_of_operator(service: Served, asked: FolderJob) -> Job:
    """Add the photographs of a folder that the server was started with (``--folder NAME=PATH``)."""
    service.check_writable()
    folder = service.settings.folders.get(asked.folder)
    if folder is None:
        raise Refused(404, "unknown_folder", "the server was started without such a folder")
    return service.jobs.submit("add", 0, lambda control: add_folder(service, control, folder))


@router.post("/duplicates", status_code=202)
def find_copies_in_library(service: Served) -> Job:
    """Look for copies among all images: a job, whose `copies` are those found. Nothing is removed."""
    service.check_writable()
    return service.jobs.submit("duplicates", 0, lambda control: find_duplicates(service, control))


@router.delete("/images")
async def remove_images(
    service: Served,
    id: Annotated[list[str], Query(min_length=1, max_length=1000)],  # noqa: A002
) -> Removed:
    """Remove images: all of these, or none if one is not there. Files are deleted if they were uploaded."""
    service.check_writable()

    def work() -> Removed:
        wanted = list(dict.fromkeys(id))
        with service.writing() as engine:
            if any(each not in engine.state.store for each in wanted):
                raise UnknownIdError("an image is not there; nothing removed")
            paths = [Path(engine.path_of(each)) for each in wanted]
            engine.remove(wanted)
        own = service.home / PHOTOGRAPHS
        for path in paths:
            if path.parent == own:
                path.unlink(missing_ok=True)
        return Removed(removed=len(wanted))

    return await service.writes.run(work)


@router.get("/photograph", response_class=Response, responses=_JPEG)
async def photograph(service: Served, id: RefQuery, side: Annotated[int, Query(ge=16, le=2048)] = 256) -> Response:  # noqa: A002
    """Return a photograph, upright, shrunk to `side` pixels: a thumbnail, or larger."""

    def work() -> bytes:
        with service.metrics.stage("picture"):
            return service.decoders.jpeg(service.photographs.path(service.engine.state, id), side)

    return _picture(await service.pictures.run(work))


@router.get("/matches", response_class=Response, responses=_JPEG)
async def matches(
    service: Served,
    a: RefQuery,
    b: RefQuery,
    style: Literal["lines", "blend", "checkerboard", "colours"] = "lines",
) -> Response:
    """Draw what two photographs have in common: lines between both, or one laid over the other."""

    def work() -> bytes:
        from delf_engine.plotting import draw_matches, draw_overlay, figure_pixels

        state, first, second, found = compared(service, (a, None), (b, None))
        own, other = (service.photographs.pixels(state, each) for each in (first, second))
        features = found.features_a, found.features_b
        with service.metrics.stage("picture"):
            if style == "lines":
                figure = draw_matches(own, other, *features, found.verification)
            else:
                figure = draw_overlay(own, other, found.verification, features=features, mode=style)
            return encoded(figure_pixels(figure))

    return _picture(await service.work.run(work))


def _picture(jpeg: bytes) -> Response:
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _queued(service: Service, uploads: list[UploadFile]) -> Job:
    """Write uploads under random names and queue their job."""
    folder = service.home / PHOTOGRAPHS
    folder.mkdir(exist_ok=True, mode=0o700)
    files: dict[Path, str] = {}
    failed: list[Failure] = []
    with ExitStack() as unless_queued:
        for upload in uploads:
            name = shown_name(upload.filename)
            if (upload.size or 0) > service.settings.max_bytes:
                failed.append(Failure(name=name, reason=f"has more than {service.settings.max_bytes} bytes"))
                continue
            path = folder / secrets.token_hex(16)
            unless_queued.callback(path.unlink, missing_ok=True)
            path.touch(mode=0o600)
            files[path] = name
            with path.open("wb") as out:
                shutil.copyfileobj(upload.file, out)
        kept = list(files)
        work = lambda control: add_uploads(service, control, files, failed)  # noqa: E731
        job = service.jobs.submit("add", len(uploads), work, kept)
        unless_queued.pop_all()
    return job
