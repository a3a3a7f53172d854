"""The journal of a long re-ranking: what is verified is written query by query, and read again after a stop.

A file of lines, each a checksum and JSON. The first says which options the verifications were made with; each
other one holds a finished query. A line that is cut short or damaged, as a kill leaves the last one, is as if it
were not there: its query is verified again.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from delf_engine.config import VerificationConfig
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.support.files import locked, system_errors
from delf_engine.verification import Verification

_FORMAT = "delf-engine reranking"
_VERSION = 1
_BEGINNING = b'{"format":"delf-engine reranking"'  # of a first line, which a power cut may have cut short


def query_key(ids: Sequence[str], features: LocalFeatures | None) -> str:
    """Return a hash of what a query's verifications depend on: its own features, and which candidates they are of.

    Features of candidates are not in it: reading them all again would take most of the time that is saved.
    """
    digest = hashlib.sha256(json.dumps(list(ids)).encode())
    if features is not None:
        digest.update(repr((features.image_size, features.dim)).encode())
        for array in (features.keypoints, features.scales, features.descriptors):
            digest.update(array.tobytes())
    return digest.hexdigest()


class Journal:
    """A journal that is open for reading and writing; `opened_journal` opens it."""

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._path = path
        self._finished: dict[str, dict[str, Any]] = {}
        kept = self._read(options)
        with system_errors(f"{path}: cannot be written"):
            self._file = path.open("r+b" if path.exists() else "w+b")
        try:
            self._file.truncate(kept)
            self._file.seek(kept)
            if not kept:
                self._append({"format": _FORMAT, "version": _VERSION, "options": dict(options)})
        except OSError as error:
            self.close()
            with suppress(OSError):
                os.truncate(path, kept)  # half a first line would be refused as some other file
            raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error

    def finished(self, query: str, key: str) -> tuple[dict[str, Verification], list[str]] | None:
        """Return what was verified of a query, and which candidates had no features.

        None if the query is not there, or was for another shortlist.
        """
        record = self._finished.get(query)
        if record is None or record["key"] != key:
            return None
        verified = {name: Verification.from_dict(values) for name, values in record["verified"].items()}
        return verified, list(record["missing"])

    def add(self, query: str, key: str, verified: Mapping[str, Verification], missing: Sequence[str]) -> None:
        """Write a finished query; once this returns, it survives a kill."""
        values = {name: verification.to_dict() for name, verification in verified.items()}
        kept = "what it holds is kept, and the same call goes on from there"
        with system_errors(f"{self._path}: cannot be written; {kept}"):
            self._append({"query": query, "key": key, "verified": values, "missing": list(missing)})

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # it tries again to write what a full disk has refused, and that was said
            self._file.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, options: Mapping[str, Any]) -> int:
        """Read what is there, and return how many bytes of it are whole lines up to the end."""
        lines: list[bytes] = []
        with (
            system_errors(f"{self._path}: cannot be read"),
            suppress(FileNotFoundError),
            self._path.open("rb") as file,
        ):
            lines = file.readlines()
        if not lines or (not lines[0].endswith(b"\n") and lines[0][9:].startswith(_BEGINNING)):
            return 0
        header = _parsed(lines[0])
        if header is None or header.get("format") != _FORMAT:
            raise FormatError(f"{self._path}: not the journal of a re-ranking; name another file, or remove it")
        if header.get("version") != _VERSION or header.get("options") != json.loads(json.dumps(dict(options))):
            raise MismatchError(
                f"{self._path}: was written with other options of verification, another seed or another version; "
                "name another file, or remove it to verify everything again"
            )
        for line in lines[1:]:
            record = _parsed(line)
            if record is not None and {"query", "key", "verified", "missing"} <= set(record):
                self._finished[record["query"]] = record
        whole = lines if lines[-1].endswith(b"\n") else lines[:-1]
        return sum(map(len, whole))


def _parsed(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or b"%08x" % zlib.crc32(text) != checksum:
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@contextmanager
def opened_journal(
    path: str | os.PathLike[str] | None, verification: VerificationConfig, exponent: float, seed: int
) -> Iterator[Journal | None]:
    """Open a journal, or none.

    A `LockedError` if another process writes to it, a `MismatchError` if it was written with other options, a
    `FormatError` if the file is no journal, or cannot be read or written.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    with locked(f"{path}.lock", f"{path}: another process is re-ranking with this journal"):
        options = {"verification": verification.model_dump(mode="json")}
        journal = Journal(path, {**options, "exponent": exponent, "seed": seed})
        try:
            yield journal
        finally:
            journal.close()
