"""What every request passes first: who may ask, from where, how much; and what every answer wears.

It is ASGI, not a dependency of routes: forms are read before these run.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from delf_engine.serve.access import COOKIE
from delf_engine.serve.logs import log
from delf_engine.serve.problems import Refused, problem
from delf_engine.serve.service import Service
from delf_engine.serve.settings import Settings, is_loopback

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
#: What starts servers asks for them, in HTTP/1.0 too.
PROBES = ("/healthz", "/readyz")
#: They tell nothing: no token is needed, and a browser gets to its login.
OPEN = (*PROBES, "/", "/compare", "/library", "/verdicts", "/login", "/logout")
#: Under it lie scripts and styles, which tell nothing either.
STATIC = "/static/"
#: Where many photographs are uploaded at once.
MANY = ("POST", "/v1/images")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER_BYTES = 16 * 1024
_DIGITS = 15  # of a length in bytes
_SLOWEST = 64 * 1024  # bytes a second
_FRAME = 1 << 20  # of a form around its photographs, and its fields


@dataclass
class _Exchange:
    """One request and what was answered."""

    begin: float
    request_id: str
    status: int = 0
    received: int = 0


class Gate:
    """Middleware around an application; `settings` say who may ask."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a GET of which the server itself leaves the body out
            scope = {**scope, "method": "GET"}
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        exchange = _Exchange(time.perf_counter(), given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8))
        scope.setdefault("state", {})["request_id"] = exchange.request_id

        async def send_dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                dressed = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    dressed[name] = value
                dressed["X-Request-ID"] = exchange.request_id
                dressed.setdefault("Cache-Control", "no-cache" if scope["path"].startswith(STATIC) else "no-store")
            await send(message)

        error: Exception | None = None
        try:
            self._check(scope, headers)
            await self._app(scope, self._limited(scope, headers, receive, exchange), send_dressed)
        except Refused as refusal:
            answer = problem(
                exchange.request_id, refusal.status_code, refusal.code, str(refusal.detail), refusal.headers
            )
            await answer(scope, receive, send_dressed)
        except Exception as failure:  # noqa: BLE001 - a client hears nothing of it, the log everything
            error = failure
            if not exchange.status:
                detail = "the server has failed; its log says why, under this request id"
                await problem(exchange.request_id, 500, "failed", detail)(scope, receive, send_dressed)
        finally:
            self._note(scope, exchange, error)

    def _check(self, scope: Scope, headers: Headers) -> None:
        settings, path = self._service.settings, scope["path"]
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _HEADER_BYTES:
            raise Refused(431, "too_large", f"the head of a request has {_HEADER_BYTES} bytes at most")
        if self._service.stopping and path not in OPEN:
            raise Refused(503, "stopping", "the server is going down", retry_after=5)
        host = _host(headers.get("host", ""))
        if settings.token is None and not host and path not in PROBES:  # no browser sends it so
            raise Refused(400, "no_host", "the request names no host: send a header Host, as HTTP/1.1 does")
        if settings.token is None and host and not is_loopback(host):
            raise Refused(
                403, "foreign_host", "without a token this server answers to the name of its machine only"
            )
        if is_foreign(headers, settings):
            raise Refused(403, "foreign_origin", "pages of other origins may not ask here")
        is_named = headers.get("origin") in settings.cors
        if path in OPEN or path.startswith(STATIC) or (scope["method"] == "OPTIONS" and is_named):
            return  # nothing that a preflight asks for is secret, and it cannot carry a token
        access = self._service.access
        if access is not None:
            kind, _, value = headers.get("authorization", "").partition(" ")
            cookie = "" if is_named else cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
            if not ((kind.lower() == "bearer" and access.is_token(value)) or access.is_cookie(cookie)):
                raise Refused(401, "no_token", "a token is needed: Authorization: Bearer TOKEN")

    def _limited(self, scope: Scope, headers: Headers, receive: Receive, exchange: _Exchange) -> Receive:
        """Return a `receive` that counts bytes and seconds while they come."""
        settings = self._service.settings
        many = (scope["method"], scope["path"]) == MANY
        most = (settings.max_upload_bytes if many else 2 * settings.max_bytes) + _FRAME
        if scope["path"] in OPEN:
            most = _FRAME  # strangers may send as much
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or len(announced) > _DIGITS or int(announced) > most:
            raise Refused(413, "too_large", f"a request has {most} bytes at most")
        whole = False

        async def limited() -> Message:
            nonlocal whole
            if whole:
                return await receive()  # that the client is gone
            left = settings.seconds + exchange.received / _SLOWEST - (time.perf_counter() - exchange.begin)
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except asyncio.TimeoutError:
                raise Refused(408, "too_slow", "the request arrives too slowly") from None
            exchange.received += len(message.get("body", b""))
            if exchange.received > most:
                raise Refused(413, "too_large", f"a request has {most} bytes at most")
            whole = not message.get("more_body", False)
            return message

        return limited

    def _note(self, scope: Scope, exchange: _Exchange, error: Exception | None) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        seconds = time.perf_counter() - exchange.begin
        metrics, method = self._service.metrics, scope["method"]
        method = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS") else "other"
        metrics.requests.labels(method, route, exchange.status).inc()
        metrics.latency.labels(route).observe(seconds)
        failed = error is not None or exchange.status >= 500
        client = scope.get("client")
        log.log(
            logging.WARNING if failed else logging.INFO,
            "request",
            exc_info=(error or scope["state"].get("error")) if failed else None,
            extra={
                "request_id": exchange.request_id,
                "method": method,
                "route": route,
                "status": exchange.status,
                "ms": round(1000 * seconds, 1),
                "bytes": exchange.received,
                "client": client[0] if client else None,
            },
        )


def is_foreign(headers: Headers, settings: Settings) -> bool:
    """Tell whether a page of another origin asks: a form may be sent from anywhere, without a preflight."""
    origin = headers.get("origin")
    if origin is None:  # a picture in their page, but not a link that somebody has followed
        other = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return other and headers.get("sec-fetch-mode") != "navigate" and not settings.cors
    if origin in settings.cors:
        return False
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _host(value: str) -> str:
    """Return the name of a ``Host`` header, without its port."""
    return value[1:].partition("]")[0] if value.startswith("[") else value.partition(":")[0].lower()
