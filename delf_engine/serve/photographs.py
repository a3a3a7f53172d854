"""Photographs that requests speak of: images of the engine by id, and uploads, which are kept for a day.

A reference is the id of an image, or ``upload:`` and the random name of an upload. No path is a client's.
"""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from delf_engine.engine.state import EngineState
from delf_engine.serve.database import Database
from delf_engine.serve.decoding import Decoders, Pixels
from delf_engine.serve.metrics import Metrics
from delf_engine.serve.problems import Refused
from delf_engine.serve.settings import Settings

_UPLOAD = re.compile(r"upload:([0-9a-f]{32})")
_KEPT_SECONDS = 24 * 3600
_SWEEP_SECONDS = 60
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Photograph:
    """A photograph as the engine takes it."""

    ref: str  # by which it can be asked for again
    source: str | Pixels  # str or (H, W, 3) uint8 array: the id of an image, or the pixels of an upload

    @property
    def is_image(self) -> bool:
        """Whether it is one of the engine's."""
        return isinstance(self.source, str)


class Photographs:
    """Finds photographs by their references, and keeps uploads in a folder."""

    def __init__(
        self, folder: Path, settings: Settings, decoders: Decoders, database: Database, metrics: Metrics
    ) -> None:
        self._folder, self._settings = folder, settings
        self._decoders, self._database, self._metrics = decoders, database, metrics
        self._swept = 0.0

    def open(self, state: EngineState, ref: str | None, data: bytes | None) -> Photograph:
        """Return the photograph of a reference, or of the bytes of an upload, which is kept.

        `Refused` if there is not exactly one of both, or no such photograph; an `ImageError` if it cannot be read.
        """
        if (ref is None) == (data is None):
            raise Refused(422, "one_photograph", "give a photograph or the id of one, and not both")
        if data is not None:
            pixels = self._decoded(data)
            return Photograph(self._keep(data), pixels)
        assert ref is not None
        if ref in state.store:
            return Photograph(ref, ref)
        return Photograph(ref, self._decoded(self.path(state, ref)))

    def path(self, state: EngineState, ref: str) -> str:
        """Return the file of a photograph; `Refused` if there is no such photograph."""
        if ref in state.store:
            return state.path_of(ref)
        upload = _UPLOAD.fullmatch(ref)
        path = self._folder / upload[1] if upload else None
        if path is None or not path.is_file():
            raise Refused(404, "unknown_image", "there is no such image, or the upload has expired")
        return str(path)

    def pixels(self, state: EngineState, photograph: Photograph) -> Pixels:
        """Return the pixels of a photograph. Errors as of `open`."""
        if isinstance(photograph.source, str):
            return self._decoded(self.path(state, photograph.ref))
        return photograph.source

    def _decoded(self, source: bytes | str) -> Pixels:
        with self._metrics.stage("decode"):
            return self._decoders.pixels(source)

    def _keep(self, data: bytes) -> str:
        name = secrets.token_hex(16)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return f"upload:{name}"

    def _sweep(self) -> None:
        """Delete what is a day old, and the oldest where all take too much; not what verdicts are of."""
        now = time.time()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept, total = now, 0
        judged = {ref for row in self._database.rows("SELECT a, b FROM verdicts") for ref in row.values()}
        found = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another server sweeps, too
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        for modified, size, path in sorted(found, reverse=True):
            if f"upload:{path.name}" in judged:
                continue
            total += size
            if now - modified > _KEPT_SECONDS or total > self._settings.kept_bytes:
                path.unlink(missing_ok=True)


def shown_name(name: str | None) -> str:
    """Return the name of an uploaded file as it is shown: without folders and control characters, and not long."""
    last = re.split(r"[/\\]", name or "")[-1]
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return plain[:_LONGEST_NAME] or "photograph"
