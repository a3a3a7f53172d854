"""For whoever keeps the server running, and what clients must know of it."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from delf_engine import __version__
from delf_engine.serve.routes.common import Served

probes = APIRouter(tags=["health"])
router = APIRouter(prefix="/v1", tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: str = "ok"


class Ready(BaseModel):
    """Whether searches are answered at once: the model is loaded, kernels are compiled."""

    ready: bool


class Info(BaseModel):
    """The engine, and the limits of the server."""

    version: str
    model: str
    profile: str
    index: str
    images: int
    readonly: bool
    max_bytes: int
    max_pixels: int
    max_files: int
    folders: list[str]


@probes.get("/healthz")
def healthz() -> Alive:
    """Say that the process is alive."""
    return Alive()


@probes.get("/readyz")
def readyz(service: Served, response: Response) -> Ready:
    """Say whether searches are answered at once: 503 while the server warms up, and while it goes down."""
    ready = service.ready and not service.stopping
    response.status_code = 200 if ready else 503
    return Ready(ready=ready)


@probes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "for Prometheus"}},
)
def metrics(service: Served) -> Response:
    """Return the figures of this process."""
    service.metrics.images.set(len(service.engine))
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/info")
def info(service: Served) -> Info:
    """Return what the engine is, and what the server takes."""
    state, settings = service.engine.state, service.settings
    manifest = state.manifest
    limits = settings.model_dump(include={"readonly", "max_bytes", "max_pixels", "max_files"})
    return Info(
        version=__version__,
        model=manifest.model_identity,
        profile=manifest.profile.name,
        index=manifest.index,
        images=len(state.store),
        folders=sorted(settings.folders),
        **limits,
    )
