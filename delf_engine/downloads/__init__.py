"""Downloads that survive broken connections and get their name only when they are whole.

What a file should be is said by a checksum where its publisher gives one. Where not, all there is to go by is the
length that the server states and the mark (ETag or date) that it gives to one version of a file: a transfer goes
on only with the version that it began with. The archive's own integrity is then left to whoever unpacks it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from delf_engine.downloads.basics import Algorithm, Caller, Checksum, check_room, file_digest, file_sha256
from delf_engine.downloads.transfer import BrokenError, Part, Progress, Receiver

__all__ = ["Algorithm", "Caller", "Checksum", "Progress", "check_room", "download", "file_digest", "file_sha256"]

_LARGEST = 4 << 30  # unless the caller knows better: a server that never ends must not fill the disk
_FULL = {errno.ENOSPC, errno.EDQUOT}


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

    part = Part(target)
    if target.is_file():
        with contextlib.suppress(OSError):  # left by a sudden end
            part.note.unlink(missing_ok=True)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.is_file():  # another process was faster
                return target
            receive = Receiver(url, part, checksum, caller, size or limit, reserve, progress, timeout)
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


def _complete(receive: Receiver, retries: int, pause: float) -> None:
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


def _persist(receive: Receiver, retries: int, pause: float) -> None:
    """Receive until the end, again and again as long as it brings something new."""
    part = receive.part
    most, failures = part.size, 0
    while True:
        try:
            return receive()
        except BrokenError as error:
            failures = 0 if part.size > most else failures + 1
            most = max(most, part.size)
            if failures > retries:
                raise receive.failure(
                    f"{error}, {failures} times in a row; {part.size} bytes are kept, the same "
                    f"command goes on from there. {receive.by_hand}"
                ) from error
        time.sleep(pause * 2**failures)
