"""What a client hears when something fails: a code, a sentence of ours, never the text of an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from delf_engine.errors import (
    ConfigError,
    DataError,
    DelfEngineError,
    ImageError,
    LockedError,
    MismatchError,
    ProcessDiedError,
    UnknownIdError,
)


class Problem(BaseModel):
    """Why a request was refused, or that it failed."""

    status: int
    code: str
    detail: str
    request_id: str
    errors: list[dict[str, Any]] = []


#: For the description of every route.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "the request is malformed",
        401: "no token, or a wrong one",
        403: "not allowed here: a foreign origin or host, or the server is read-only",
        404: "no such photograph, job or page",
        408: "the body arrived too slowly",
        409: "not in this state",
        413: "too many bytes or files",
        422: "a value, or a photograph, that cannot be used",
        429: "too much work is waiting",
        431: "the head of the request is too long",
        500: "the server has failed; its log says why",
        503: "took too long, somebody else is writing, or the server is going down",
    }.items()
}

_CODES = {401: "no_token", 404: "not_found", 405: "wrong_method", 413: "too_large"}
_KINDS: dict[type[DelfEngineError], tuple[int, str, str]] = {
    UnknownIdError: (404, "unknown_image", "the engine has no such image"),
    LockedError: (503, "locked", "somebody else is writing to this engine; try again"),
    ProcessDiedError: (422, "bad_photograph", "the decoder died of this photograph"),
    ConfigError: (422, "bad_option", "an option is out of range, or does not go with this engine"),
    MismatchError: (422, "does_not_fit", "the engine was made without what is asked for"),
    DataError: (422, "bad_data", "these pairs or this shortlist cannot be used"),
}


class Refused(HTTPException):
    """A request that is not answered, and why."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(status, detail, None if retry_after is None else {"Retry-After": str(retry_after)})
        self.code = code


def readable(reason: str) -> str:
    """Return the reason of an `ImageError` for a client: without a decoder's words, and advice of options."""
    if reason.startswith(("cannot be", "refused")):
        return "damaged, cut short, or of a kind that is not decoded"
    return reason.partition(";")[0]


def problem(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> JSONResponse:
    """Return the answer to a request that is refused."""
    body = Problem(status=status, code=code, detail=detail, request_id=request_id, errors=errors or [])
    return JSONResponse(body.model_dump(), status, headers)


def of_error(request_id: str, error: DelfEngineError) -> JSONResponse:
    """Return the answer to a request that has met an error of the package."""
    if isinstance(error, ImageError):
        return problem(request_id, 422, "bad_photograph", readable(error.reason))
    for kind, (status, code, detail) in _KINDS.items():
        if isinstance(error, kind):
            return problem(request_id, status, code, detail, {"Retry-After": "2"} if status == 503 else None)
    return problem(request_id, 500, "failed", "the server has failed; its log says why, under this request id")


def install(app: FastAPI) -> None:
    """Let an application answer in this form."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = getattr(error, "code", None) or _CODES.get(error.status_code, "bad_request")
        status, detail = error.status_code, str(error.detail)
        if detail.startswith("Too many"):  # files or fields of a form, as Starlette says it
            status, code = 413, "too_many_files"
        return problem(request.state.request_id, status, code, detail, error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
        return problem(request.state.request_id, 422, "bad_value", "a value is missing or wrong", errors=found)

    async def failed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DelfEngineError)
        request.state.error = error
        return of_error(request.state.request_id, error)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(DelfEngineError, failed)
