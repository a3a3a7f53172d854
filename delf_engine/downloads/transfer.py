"""One transfer after another into the same partial file, each from where the one before ended."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from delf_engine import __version__
from delf_engine.downloads.basics import Caller, Checksum, check_room
from delf_engine.errors import DelfEngineError

__all__ = ["BrokenError", "Part", "Progress", "Receiver"]

Progress = Callable[[int, int], None]
"""Called with (bytes there, bytes in all; 0 where the server does not say)."""

_BLOCK = 1 << 16
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_OFFLINE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}


class BrokenError(Exception):
    """A transfer that may go better when tried again."""


class Part:
    """What has come of a file so far, and beside it which version of the file that is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes that have come."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def version(self) -> Version | None:
        """Of which version it is a part, if that was written down."""
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
            return Version(str(found["url"]), str(found["mark"]), int(found["total"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def begin(self, version: Version) -> None:
        """Forget what is there, then say of what the next bytes are a part; in this order, whenever it ends."""
        self.forget()
        self.note.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def forget(self) -> None:
        """Remove what has come, and the note beside it."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class Version:
    """One version of a file on a server.

    Attributes
    ----------
    url : str
    mark : str
        Its strong ETag, else the date of its last change; empty where the server gives neither.
    total : int
        Its bytes; 0 where the server does not say.
    """

    url: str
    mark: str
    total: int


class Receiver:
    """One transfer after another into the same partial file."""

    def __init__(
        self,
        url: str,
        part: Part,
        checksum: Checksum | None,
        caller: Caller,
        limit: int,
        reserve: int,
        progress: Progress | None,
        timeout: float,
    ) -> None:
        self.url = url
        self.part = part
        self.checksum = checksum
        self.caller = caller
        self.limit = limit
        self.reserve = reserve
        self.progress = progress
        self.timeout = timeout

    def __call__(self) -> None:
        """Receive what is missing; `BrokenError` where trying again may help."""
        start, begun = self.part.size, self.part.version
        if self.checksum is None and (begun is None or begun.url != self.url):
            start = 0  # nothing could tell afterwards that the beginning belongs to another file
        headers = {"User-Agent": f"delf-engine/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if begun is not None and begun.url == self.url and begun.mark:
                headers["If-Range"] = begun.mark
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout
            ) as response:
                self._store(response, start, begun)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            self._unreachable(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:  # before the first byte
            raise BrokenError(f"the connection broke: {error or type(error).__name__}") from error

    def failure(self, message: str) -> DelfEngineError:
        """Return the caller's error about the address."""
        return self.caller.error(f"{self.url}: {message}")

    @property
    def by_hand(self) -> str:
        """What to do where there is no network."""
        hashed = f" ({self.checksum})" if self.checksum is not None else ""
        return f"To do without the network, put the file{hashed} at {self.part.target}"

    def _store(self, response: http.client.HTTPResponse, start: int, begun: Version | None) -> None:
        start = self._continues_at(response, start)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        self._limited(total)
        if self.checksum is None:
            self._check_version(total if length else None, start, begun)
        if total:
            check_room(self.part.target.parent, total - start + self.reserve, what=self.url, caller=self.caller)
        if not start:
            self.part.begin(Version(self.url, _mark(response), total))
        done = start
        with self.part.path.open("ab" if start else "wb") as file:
            while block := _next_block(response):
                done += len(block)
                self._limited(done)
                file.write(block)
                if self.progress is not None:
                    self.progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total and done != total:
            raise BrokenError(f"the connection closed after {done} of {total} bytes")

    def _continues_at(self, response: http.client.HTTPResponse, start: int) -> int:
        """Return from which byte on the server sends: `start`, or 0 where it does not do ranges."""
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            return 0
        if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return start
        self.part.forget()
        raise BrokenError("the server sent another part of the file than it was asked for")

    def _check_version(self, total: int | None, start: int, begun: Version | None) -> None:
        if total is None:
            raise self.failure(
                "there is no checksum for it and the server does not state its length, so nothing would tell "
                f"whether it is whole. {self.by_hand}"
            )
        if start and begun is not None and total != begun.total:  # servers without marks do not notice it
            self.part.forget()
            raise BrokenError(f"the file has changed: it had {begun.total} bytes, now {total}")

    def _limited(self, size: int) -> None:
        if size > self.limit:
            self.part.forget()
            raise self.failure(
                f"sends {size} bytes or more, at most {self.limit} are expected; "
                f"it is not the file that was meant. {self.by_hand}"
            )

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.part.size:
            self.part.forget()  # longer than the file: not a part of it
            raise BrokenError("what was there already does not belong to the file") from error
        if error.code in _TRY_AGAIN:
            raise BrokenError(f"the server answered {error.code} {error.reason}") from error
        raise self.failure(f"the server answered {error.code} {error.reason}. {self.by_hand}") from error

    def _unreachable(self, reason: str | BaseException) -> None:
        final = isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError)) or (
            isinstance(reason, OSError) and reason.errno in _OFFLINE
        )
        if not final:
            raise BrokenError(str(reason) or type(reason).__name__)
        kept = f"{self.part.size} bytes of it are kept. " if self.part.size else ""
        raise self.failure(f"cannot be reached: {reason}. {kept}{self.by_hand}")


def _mark(response: http.client.HTTPResponse) -> str:
    """Return what the server calls this version of the file; a weak ETag does not vouch for the bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _next_block(response: http.client.HTTPResponse) -> bytes:
    """Read on; an error of the network must not be taken for one of the disk."""
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(f"the connection broke: {error or type(error).__name__}") from error
