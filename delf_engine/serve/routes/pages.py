"""The page for people: templates without any data, which scripts fill from the API; logging in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from delf_engine.serve.access import COOKIE, COOKIE_SECONDS
from delf_engine.serve.problems import Refused
from delf_engine.serve.routes.common import Served

router = APIRouter(include_in_schema=False)

_HERE = Path(__file__).parent.parent
_templates = Jinja2Templates(_HERE / "templates")
#: Scripts, styles and the icon.
static = StaticFiles(directory=_HERE / "static")


@router.get("/", name="search")
@router.get("/compare", name="compare")
@router.get("/library", name="library")
@router.get("/verdicts", name="verdicts")
@router.get("/login", name="login")
def page(request: Request, service: Served) -> HTMLResponse:
    """Return a page, the same for all who ask."""
    view: str = request.scope["route"].name
    settings = service.settings
    shown = {"view": view, "readonly": settings.readonly, "has_token": settings.token is not None}
    return _templates.TemplateResponse(request, f"{view}.html.j2", shown)


@router.post("/login", status_code=204)
def log_in(request: Request, service: Served, token: Annotated[str, Form(max_length=4096)]) -> Response:
    """Set a cookie for whoever sends the token."""
    if service.access is None:
        raise Refused(401, "wrong_token", "this server has no token")
    cookie = service.access.log_in(token.strip())
    answer = Response(status_code=204)
    # A proxy may speak TLS for this server: the browser says what it sees.
    secure = request.headers.get("origin", "").startswith("https://") or request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, max_age=COOKIE_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout", status_code=204)
def log_out() -> Response:
    """Let the browser forget its cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
