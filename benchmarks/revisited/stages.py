"""Time and memory of the stages of a benchmark, summed over all runs that it took to finish them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.common import memory
from delf_engine.errors import DataError
from delf_engine.support.files import replacing

__all__ = ["Stage", "Stages"]

_SAVED_EVERY = 0.5  # seconds: what a kill loses of the account


@dataclass
class Stage:
    """One stage of one run; `advance` it as its work is committed.

    Attributes
    ----------
    name : str
    total : int
        Items there are.
    cached : int
        Items that earlier runs have done.
    seconds, items :
        Of this stage in all runs, this one included.
    peak_mb : float or None
        Most memory that this process held during the stage, in this run; None where the system does not say.
    """

    name: str
    total: int
    cached: int = 0
    seconds: float = 0.0
    items: int = 0
    peak_mb: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            "items": self.total,
            "cached": self.cached,
            "timed": self.items,
            "peak_mb": self.peak_mb,
        }


class Stages:
    """A ledger of stages in a file, so that a run that was stopped and continued tells the whole cost.

    Parameters
    ----------
    path : Path
        Of the ledger, a JSON file; made if need be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, float]] = _read(path)
        self.done: list[Stage] = []

    @contextlib.contextmanager
    def stage(self, name: str, key: str | None, total: int, *, cached: int = 0) -> Iterator[_Clock]:
        """Time a stage, with a progress bar; yields what takes the number of items done.

        Parameters
        ----------
        name : str
        key : str or None
            Of what the stage makes and keeps: runs that make the same add up. None: it keeps nothing.
        total, cached : int
            Items, and those of them that are there already.
        """
        before = self._known.get(key or "", {}) if cached else {}
        stage = Stage(name, total, cached, before.get("seconds", 0.0), int(before.get("items", 0)))
        _reset_peak()
        with _bar() as bar:
            task = bar.add_task(name, total=total, completed=cached)
            clock = _Clock(stage, bar, task, lambda: self._note(key, stage))
            try:
                yield clock
            finally:
                clock.stop()
        stage.peak_mb = _peak_mb()
        self.done.append(stage)

    def items(self, key: str) -> int:
        """Return how many items of a stage earlier runs have done, as far as they came to note it."""
        return int(self._known.get(key, {}).get("items", 0))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the stages of this run in their order, ready for JSON."""
        return [stage.to_dict() for stage in self.done]

    def _note(self, key: str | None, stage: Stage) -> None:
        if key is None:
            return
        self._known[key] = {"seconds": stage.seconds, "items": stage.items}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, durable=False) as temporary:
                temporary.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}; make room and run it again") from error


class _Clock:
    def __init__(self, stage: Stage, bar: Progress, task: Any, note: Any) -> None:
        self.stage = stage
        self._bar = bar
        self._task = task
        self._note = note
        self._advanced = False
        self._since = self._noted = time.perf_counter()

    def advance(self, items: int = 1) -> None:
        """Say that so many more items are done and on disk."""
        if not items:
            return
        self._advanced = True
        self.stage.items += items
        self._bar.update(self._task, advance=items)
        now = time.perf_counter()
        if now - self._noted > _SAVED_EVERY:
            self._save(now)

    def stop(self) -> None:
        """Note the time up to now; that of looking up what was there already is not counted again."""
        if self._advanced or not self.stage.items:
            self._save(time.perf_counter())

    def _save(self, now: float) -> None:
        self.stage.seconds += now - self._since
        self._since = self._noted = now
        self._note()


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Return the ledger; a damaged one is begun anew, for it holds nothing but times."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(k): {"seconds": float(v["seconds"]), "items": int(v["items"])} for k, v in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _reset_peak() -> None:
    """Let the system forget the most memory so far, where it can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float | None:
    most = memory("VmHWM")
    if most is not None:
        return round(most / 2**20, 1)
    if sys.platform == "win32":
        return None
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
