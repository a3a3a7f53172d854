"""A small HTTP server with the faults that real ones and real networks have."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FileServer:
    """Serves `files` by path; what goes wrong is set here and can be changed between requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    lengths: bool = True  # False: the end of the connection is the end of the file
    break_after: list[int] = field(default_factory=list)  # bytes before the connection breaks, one a request
    requests: list[str] = field(default_factory=list)  # paths
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
            httpd.shutdown()
            thread.join()


def answer(server: FileServer, handler: http.server.BaseHTTPRequestHandler) -> None:
    path = handler.path.lstrip("/")
    server.requests.append(path)
    if path not in server.files:
        return handler.send_error(404)
    data = server.files[path]
    handler.send_response(200)
    if server.lengths:
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.close_connection = True
    handler.wfile.write(data[: server.break_after.pop(0)] if server.break_after else data)
    return None
