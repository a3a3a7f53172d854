"""A small HTTP server with the faults that real ones and real networks have."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FileServer:
    """Serves `files` by path; what goes wrong is set here and can be changed between requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True  # False: the whole file whatever is asked for, as many servers do
    wrong_range: bool = False  # another part of the file than asked for
    lengths: bool = True  # False: the end of the connection is the end of the file
    break_after: list[int] = field(default_factory=list)  # bytes before the connection breaks, one a request
    statuses: list[int] = field(default_factory=list)  # answers without a file, one a request
    redirect: dict[str, str] = field(default_factory=dict)
    marks: dict[str, tuple[str, str]] = field(default_factory=dict)  # header and value that say the version
    slow: float = 0.0  # seconds between blocks of a sixteenth of the file
    stall: threading.Event | None = None  # send the first half of the file, then nothing until it is set
    started: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range header
    address: str = ""

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(server, self)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        server.address = f"http://127.0.0.1:{httpd.server_address[1]}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            if server.stall is not None:
                server.stall.set()
            httpd.shutdown()
            thread.join()


def answer(server: FileServer, handler: http.server.BaseHTTPRequestHandler) -> None:
    path, asked = handler.path.lstrip("/"), handler.headers.get("Range")
    server.requests.append((path, asked))
    server.started.set()
    if server.statuses:
        return handler.send_error(server.statuses.pop(0))
    if path in server.redirect:
        handler.send_response(302)
        handler.send_header("Location", server.redirect[path])
        return handler.end_headers()
    if path not in server.files:
        return handler.send_error(404)
    data, start = server.files[path], 0
    match = re.fullmatch(r"bytes=(\d+)-", asked or "")
    header, mark = server.marks.get(path, ("", ""))
    if match and server.ranges and handler.headers.get("If-Range", mark) == mark:
        start = int(match[1]) + (1 if server.wrong_range else 0)
        if start >= len(data):
            return handler.send_error(416)
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        handler.send_response(200)
    if mark:
        handler.send_header(header, mark)
    if server.lengths:
        handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    send(server, handler, data[start:], max(0, len(data) // 2 - start))
    return None


def send(server: FileServer, handler: http.server.BaseHTTPRequestHandler, data: bytes, half: int) -> None:
    handler.close_connection = True
    if server.stall is not None:
        handler.wfile.write(data[:half])
        handler.wfile.flush()
        server.stall.wait(30)
        data = data[half:]
    if server.break_after:
        data = data[: server.break_after.pop(0)]
    block = len(data) // 16 + 1 if server.slow else len(data) + 1
    try:
        for place in range(0, len(data), block):
            handler.wfile.write(data[place : place + block])
            time.sleep(server.slow)
    except OSError:  # the client has gone
        return
