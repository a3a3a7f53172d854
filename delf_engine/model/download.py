"""Downloads that survive broken connections and are checked by their SHA-256 before they get their name."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from delf_engine import __version__
from delf_engine.errors import CheckpointError

__all__ = ["Progress", "download", "file_sha256"]

Progress = Callable[[int, int], None]
"""Called with (bytes there, bytes in all; 0 where the server does not say)."""

_BLOCK = 1 << 16
_LARGEST = 4 << 30  # no checkpoint is larger: a server that never ends must not fill the disk
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_OFFLINE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}


class _BrokenError(Exception):
    """A transfer that may go better when tried again."""


def download(
    url: str,
    target: Path,
    sha256: str,
    *,
    size: int | None = None,
    progress: Progress | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    pause: float = 1.0,
) -> Path:
    """Fetch `url` into `target`, which appears complete and checked or not at all.

    What a broken transfer has left (``TARGET.part``) is continued, also by a later call; where the server
    cannot do that, it starts over. Several processes may ask for the same file: one downloads, the others wait.

    Parameters
    ----------
    url : str
        http or https.
    target : Path
        If it exists, nothing is done. Its folder is made.
    sha256 : str
        Of the file, 64 hexadecimal digits.
    size : int or None
        Of the file in bytes, if known.
    progress : callable, optional
    timeout : float
        Seconds without a byte after which a connection counts as broken.
    retries : int
        Broken transfers in a row, none of which brought anything new, before giving up.
    pause : float
        Seconds before the first new try; doubled with each that brings nothing.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    CheckpointError
        If there is no network, no such file, or other content than `sha256` says; or it cannot be written.
    """
    from filelock import FileLock

    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.is_file():  # another process was faster
                return target
            receive = _Receiver(url, part, size or _LARGEST, progress, timeout, _by_hand(target, sha256))
            _complete(receive, part, sha256, retries, pause)
            os.replace(part, target)
    except OSError as error:
        raise CheckpointError(
            f"{target}: cannot be written: {error}; make room or set DELF_ENGINE_HOME to another folder"
        ) from error
    return target


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Receiver:
    """One transfer after another into the same partial file."""

    def __init__(
        self, url: str, part: Path, limit: int, progress: Progress | None, timeout: float, by_hand: str
    ) -> None:
        self.url = url
        self.part = part
        self.limit = limit
        self.progress = progress
        self.timeout = timeout
        self.by_hand = by_hand

    def __call__(self) -> None:
        """Receive what is missing; `_BrokenError` where trying again may help."""
        start = _size(self.part)
        headers = {"User-Agent": f"delf-engine/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout
            ) as response:
                self._store(response, start)
        except urllib.error.HTTPError as error:
            self._refused(error)
        except urllib.error.URLError as error:
            self._unreachable(error.reason)
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:  # before the first byte
            raise _BrokenError(f"the connection broke: {error or type(error).__name__}") from error

    def _store(self, response: http.client.HTTPResponse, start: int) -> None:
        start = self._continues_at(response, start)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        self._limited(total)
        done = start
        with self.part.open("ab" if start else "wb") as file:
            while block := _next_block(response):
                done += len(block)
                self._limited(done)
                file.write(block)
                if self.progress is not None:
                    self.progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total and done != total:
            raise _BrokenError(f"the connection closed after {done} of {total} bytes")

    def _continues_at(self, response: http.client.HTTPResponse, start: int) -> int:
        """Return from which byte on the server sends: `start`, or 0 where it does not do ranges."""
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            return 0
        if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return start
        self.part.unlink(missing_ok=True)
        raise _BrokenError("the server sent another part of the file than it was asked for")

    def _limited(self, size: int) -> None:
        if size > self.limit:
            self.part.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.url}: sends {size} bytes or more, at most {self.limit} are expected; "
                f"it is not the file that was meant. {self.by_hand}"
            )

    def _refused(self, error: urllib.error.HTTPError) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _size(self.part):
            self.part.unlink()  # longer than the file: not a part of it
            raise _BrokenError("what was there already does not belong to the file") from error
        if error.code in _TRY_AGAIN:
            raise _BrokenError(f"the server answered {error.code} {error.reason}") from error
        raise CheckpointError(
            f"{self.url}: the server answered {error.code} {error.reason}. {self.by_hand}"
        ) from error

    def _unreachable(self, reason: str | BaseException) -> None:
        final = isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError)) or (
            isinstance(reason, OSError) and reason.errno in _OFFLINE
        )
        if not final:
            raise _BrokenError(str(reason) or type(reason).__name__)
        raise CheckpointError(f"{self.url}: cannot be reached: {reason}. {self.by_hand}")


def _next_block(response: http.client.HTTPResponse) -> bytes:
    """Read on; an error of the network must not be taken for one of the disk."""
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke: {error or type(error).__name__}") from error


def _complete(receive: _Receiver, part: Path, sha256: str, retries: int, pause: float) -> None:
    """Bring the partial file to its end and check it; one that others began gets a second chance from zero."""
    resumed = _size(part) > 0
    if resumed and file_sha256(part) == sha256:
        return
    _persist(receive, part, retries, pause)
    found = file_sha256(part)
    if found != sha256 and resumed:
        part.unlink()
        _persist(receive, part, retries, pause)
        found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise CheckpointError(
            f"{receive.url}: expected a file with SHA-256 {sha256}, found {found}; it was removed. The file has "
            "been changed or damaged on its way: try again, and if that does not help ask who published it"
        )


def _persist(receive: _Receiver, part: Path, retries: int, pause: float) -> None:
    """Receive until the end, again and again as long as it brings something new."""
    most, failures = _size(part), 0
    while True:
        try:
            return receive()
        except _BrokenError as error:
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures > retries:
                raise CheckpointError(
                    f"{receive.url}: {error}, {failures} times in a row; {_size(part)} bytes are kept, the same "
                    f"command goes on from there. {receive.by_hand}"
                ) from error
        time.sleep(pause * 2**failures)


def _by_hand(target: Path, sha256: str) -> str:
    return f"To do without the network, put the file (SHA-256 {sha256}) at {target}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
