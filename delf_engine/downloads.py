"""Downloads that survive broken connections and get their name only when they are whole.

What a file should be is said by a checksum where its publisher gives one. Where not, all there is to go by is the
length that the server states and the mark (ETag or date) that it gives to one version of a file: a transfer goes
on only with the version that it began with. The archive's own integrity is then left to whoever unpacks it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from delf_engine import __version__
from delf_engine.errors import DelfEngineError

__all__ = ["Algorithm", "Caller", "Checksum", "Progress", "check_room", "download", "file_digest", "file_sha256"]

Progress = Callable[[int, int], None]
"""Called with (bytes there, bytes in all; 0 where the server does not say)."""

Algorithm: TypeAlias = Literal["sha256", "md5"]

_BLOCK = 1 << 16
_LARGEST = 4 << 30  # unless the caller knows better: a server that never ends must not fill the disk
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_OFFLINE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LABELS = {"sha256": "SHA-256", "md5": "MD5"}


@dataclass(frozen=True)
class Checksum:
    """What the bytes of a file must hash to.

    Attributes
    ----------
    algorithm : "sha256" or "md5"
        MD5 tells damage, not malice; it is here for the publishers who give nothing else.
    value : str
        Hexadecimal digits, lower case.
    """

    algorithm: Algorithm
    value: str

    def __str__(self) -> str:
        return f"{_LABELS[self.algorithm]} {self.value}"


@dataclass(frozen=True)
class Caller:
    """On whose behalf something is downloaded: what its errors are, and what they advise.

    Attributes
    ----------
    error : type of DelfEngineError
        Raised for everything that goes wrong.
    elsewhere : str
        How another folder is chosen, as in "make room or set DELF_ENGINE_HOME to another folder".
    """

    error: type[DelfEngineError]
    elsewhere: str


class _BrokenError(Exception):
    """A transfer that may go better when tried again."""


def download(
    url: str,
    target: Path,
    checksum: Checksum | None,
    *,
    caller: Caller,
    size: int | None = None,
    limit: int = _LARGEST,
    reserve: int = 0,
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
    checksum : Checksum or None
        Of the file. None: nobody gives one; then the server must state the length, and a transfer is continued
        only while the server says that the file is still the one that was begun.
    caller : Caller
    size : int or None
        Of the file in bytes, if known.
    limit : int
        Most bytes to accept where `size` is not known.
    reserve : int
        Bytes that must stay free on the disk beyond the file itself.
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
    caller.error
        If there is no network, no such file, or other content than `checksum` says; if the disk has no room for
        it, or it cannot be written. What was received stays, except where it is not the file that was meant.
    """
    from filelock import FileLock

    part = _Part(target)
    if target.is_file():
        with contextlib.suppress(OSError):  # left by a sudden end
            part.note.unlink(missing_ok=True)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.is_file():  # another process was faster
                return target
            receive = _Receiver(url, part, checksum, caller, size or limit, reserve, progress, timeout)
            _complete(receive, retries, pause)
            os.replace(part.path, target)
            part.forget()
    except OSError as error:
        if error.errno in _FULL:
            raise caller.error(
                f"{target}: the disk is full; the {part.size} bytes that came are kept, the same command goes on "
                f"from there: make room or {caller.elsewhere}"
            ) from error
        raise caller.error(f"{target}: cannot be written: {error}; make room or {caller.elsewhere}") from error
    return target


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: Algorithm) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256() if algorithm == "sha256" else hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_room(folder: Path, needed: int, *, what: str, caller: Caller) -> None:
    """Raise if the disk that holds `folder` has less than `needed` bytes free.

    Parameters
    ----------
    folder : Path
        It, or one above it, exists.
    needed : int
        Bytes.
    what : str
        What they are for.
    caller : Caller
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise caller.error(
            f"{what} needs {_amount(needed)} more, and {_amount(free)} are free at {existing}; nothing that is "
            f"there was lost: make room or {caller.elsewhere}, and give the same command again"
        )


class _Part:
    """What has come of a file so far, and beside it which version of the file that is."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def version(self) -> _Version | None:
        """Of which version it is a part, if that was written down."""
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
            return _Version(str(found["url"]), str(found["mark"]), int(found["total"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def begin(self, version: _Version) -> None:
        """Forget what is there, then say of what the next bytes are a part; in this order, whenever it ends."""
        self.forget()
        self.note.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Version:
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


class _Receiver:
    """One transfer after another into the same partial file."""

    def __init__(
        self,
        url: str,
        part: _Part,
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
        """Receive what is missing; `_BrokenError` where trying again may help."""
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
            raise _BrokenError(f"the connection broke: {error or type(error).__name__}") from error

    def failure(self, message: str) -> DelfEngineError:
        """Return the caller's error about the address."""
        return self.caller.error(f"{self.url}: {message}")

    @property
    def by_hand(self) -> str:
        """What to do where there is no network."""
        hashed = f" ({self.checksum})" if self.checksum is not None else ""
        return f"To do without the network, put the file{hashed} at {self.part.target}"

    def _store(self, response: http.client.HTTPResponse, start: int, begun: _Version | None) -> None:
        start = self._continues_at(response, start)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else 0
        self._limited(total)
        if self.checksum is None:
            self._check_version(total if length else None, start, begun)
        if total:
            check_room(self.part.target.parent, total - start + self.reserve, what=self.url, caller=self.caller)
        if not start:
            self.part.begin(_Version(self.url, _mark(response), total))
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
            raise _BrokenError(f"the connection closed after {done} of {total} bytes")

    def _continues_at(self, response: http.client.HTTPResponse, start: int) -> int:
        """Return from which byte on the server sends: `start`, or 0 where it does not do ranges."""
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            return 0
        if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return start
        self.part.forget()
        raise _BrokenError("the server sent another part of the file than it was asked for")

    def _check_version(self, total: int | None, start: int, begun: _Version | None) -> None:
        if total is None:
            raise self.failure(
                "there is no checksum for it and the server does not state its length, so nothing would tell "
                f"whether it is whole. {self.by_hand}"
            )
        if start and begun is not None and total != begun.total:  # servers without marks do not notice it
            self.part.forget()
            raise _BrokenError(f"the file has changed: it had {begun.total} bytes, now {total}")

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
            raise _BrokenError("what was there already does not belong to the file") from error
        if error.code in _TRY_AGAIN:
            raise _BrokenError(f"the server answered {error.code} {error.reason}") from error
        raise self.failure(f"the server answered {error.code} {error.reason}. {self.by_hand}") from error

    def _unreachable(self, reason: str | BaseException) -> None:
        final = isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError)) or (
            isinstance(reason, OSError) and reason.errno in _OFFLINE
        )
        if not final:
            raise _BrokenError(str(reason) or type(reason).__name__)
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
        raise _BrokenError(f"the connection broke: {error or type(error).__name__}") from error


def _complete(receive: _Receiver, retries: int, pause: float) -> None:
    """Bring the partial file to its end and check it; one that others began gets a second chance from zero."""
    part, checksum = receive.part, receive.checksum
    if checksum is None:
        begun = part.version
        if begun is None or begun.url != receive.url or not 0 < begun.total == part.size:
            _persist(receive, retries, pause)
        return
    resumed = part.size > 0
    if resumed and file_digest(part.path, checksum.algorithm) == checksum.value:
        return
    _persist(receive, retries, pause)
    found = file_digest(part.path, checksum.algorithm)
    if found != checksum.value and resumed:
        part.forget()
        _persist(receive, retries, pause)
        found = file_digest(part.path, checksum.algorithm)
    if found != checksum.value:
        part.forget()
        raise receive.failure(
            f"expected a file with {checksum}, found {found}; it was removed. The file has "
            "been changed or damaged on its way: try again, and if that does not help ask who published it"
        )


def _persist(receive: _Receiver, retries: int, pause: float) -> None:
    """Receive until the end, again and again as long as it brings something new."""
    part = receive.part
    most, failures = part.size, 0
    while True:
        try:
            return receive()
        except _BrokenError as error:
            failures = 0 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures > retries:
                raise receive.failure(
                    f"{error}, {failures} times in a row; {part.size} bytes are kept, the same "
                    f"command goes on from there. {receive.by_hand}"
                ) from error
        time.sleep(pause * 2**failures)


def _amount(size: int) -> str:
    """Return bytes for people: 1.9 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
