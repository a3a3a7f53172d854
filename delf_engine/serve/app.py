"""The application, and the server that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from socket import socket
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from delf_engine import __version__
from delf_engine.serve import logs, problems
from delf_engine.serve.gate import Gate
from delf_engine.serve.routes import health, images, jobs, pages, searching, verdicts
from delf_engine.serve.service import Service
from delf_engine.serve.settings import Settings

_FIELDS = 3000  # of a form: a shortlist and its scores
_FIELD_BYTES = 64 * 1024
_CONNECTIONS = 512
_HEAD_BYTES = 64 * 1024  # above the gate's limit, so that it can say so, however the head arrives


def create_app(settings: Settings) -> FastAPI:
    """Open an engine and return the application that answers from it, as any ASGI server runs it.

    The engine is opened to read, and closed when the application shuts down; it is opened to write only while
    images are added or removed. So several processes may serve one directory.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    FormatError, MismatchError
        If the engine cannot be opened.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.warm_up()
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="delf-engine",
        summary="Do these photographs show the same place?",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # its page loads scripts of other hosts
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.RESPONSES,
        form_limits={"max_files": settings.max_files, "max_fields": _FIELDS, "max_part_size": _FIELD_BYTES},
    )
    app.state.service = service
    problems.install(app)
    # The gate has asked for it already; this describes it.
    told: list[Any] = [Depends(HTTPBearer(auto_error=False))] if settings.token else []
    for router in (searching.router, images.router, jobs.router, verdicts.router, health.router):
        app.include_router(router, dependencies=told)
    app.include_router(health.probes)
    app.include_router(pages.router)
    app.mount("/static", pages.static)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Gate, service=service)  # last: it is the outermost
    return app


def run(settings: Settings, listening: Callable[[str], None] = lambda address: None) -> None:
    """Serve until the process is told to end; then finish what was asked for, and commit or give up what is added.

    `listening` is called with the address once connections are taken there.

    Errors as of `create_app`.
    """
    import uvicorn

    from delf_engine.serve.protocol import Protocol

    app = create_app(settings)
    service: Service = app.state.service

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                host = f"[{settings.host}]" if ":" in settings.host else settings.host
                listening(f"http://{host}:{self.servers[0].sockets[0].getsockname()[1]}/")

        def handle_exit(self, *signal: Any) -> None:
            service.stopping = True  # now: those who follow a job would hold their connections
            super().handle_exit(*signal)

    logs.configure()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_graceful_shutdown=int(settings.seconds),
    )
    Server(config).run()
