"""What a server holds: an engine that reads, one that writes when it must, processes, threads, a database."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from delf_engine.engine import Engine, EngineReader, searching
from delf_engine.engine.file_ids import own_id
from delf_engine.engine.searching import SearchOptions
from delf_engine.engine.state import EngineState
from delf_engine.engine.views import verify_views
from delf_engine.errors import ConfigError, LockedError
from delf_engine.serve.access import Access
from delf_engine.serve.database import Database
from delf_engine.serve.decoding import Decoders, encoded
from delf_engine.serve.jobs import Jobs
from delf_engine.serve.limits import WorkQueue
from delf_engine.serve.logs import log
from delf_engine.serve.metrics import Metrics
from delf_engine.serve.photographs import Photographs
from delf_engine.serve.problems import Refused
from delf_engine.serve.settings import Settings
from delf_engine.support.files import library_errors

#: Folder of what a server keeps, in the engine's directory.
HOME = "serve"
_LOCK_SECONDS = 10.0
_PICTURES_WAITING = 256  # a page of results asks for all its pictures at once


class Service:
    """Opened with the server, closed with it.

    Attributes
    ----------
    access : Access or None
        None: nobody is asked for a token.
    engine : EngineReader
        A reader that refreshes itself: searches of all threads.
    home : path
        Where uploads and the database lie.
    work, pictures, writes : WorkQueue
        For searches and the like, for small pictures, for removing.
    ready : bool
        Whether `warm_up` has done its work.
    stopping : bool
        Whether the server is going down.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        token = settings.token
        self.access = None if token is None else Access(token.get_secret_value())
        self.ready = self.stopping = False
        self._writing, self._loading = threading.Lock(), threading.Lock()
        with ExitStack() as stack:
            self.engine: EngineReader = stack.enter_context(_reader(settings))
            if settings.readonly:
                self.home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="delf-engine-")))
            else:
                self.home = self.engine.directory / HOME
            with library_errors(f"{self.home}: cannot be written; --read-only needs nothing there"):
                self.home.mkdir(exist_ok=True, mode=0o700)
                self.database = Database(None if settings.readonly else self.home / "serve.sqlite")
            stack.callback(self.database.close)
            self.decoders = Decoders(settings.decoders, settings.max_pixels)
            stack.callback(self.decoders.close)
            self.photographs = Photographs(
                self.home / "uploads", settings, self.decoders, self.database, self.metrics
            )
            self.work = WorkQueue("work", settings.threads, settings.queue, settings.seconds, self.metrics)
            stack.callback(self.work.close)
            self.pictures = WorkQueue(
                "pictures", settings.decoders, _PICTURES_WAITING, settings.seconds, self.metrics
            )
            stack.callback(self.pictures.close)
            # Of its own: who waits for the writer must not be in the way of searches.
            self.writes = WorkQueue("writes", 1, settings.queue, settings.seconds, self.metrics)
            stack.callback(self.writes.close)
            self.jobs = Jobs(self.database, self.metrics, settings.queue)
            stack.callback(self.jobs.close)
            self._delete_lost()
            self._warming = threading.Thread(target=self._warm, name="warming")
            self._stack = stack.pop_all()

    def warm_up(self) -> None:
        """Load the model and compile kernels in a thread: on a new machine that takes up to a minute."""
        self._warming.start()
        self._stack.callback(self._warming.join)  # it reads the engine

    def close(self) -> None:
        """Finish what runs, commit or give up the job that is at work, and close everything."""
        self.stopping = True
        self._stack.close()

    def check_writable(self) -> None:
        """Refuse whatever changes something if the server is read-only."""
        if self.settings.readonly:
            raise Refused(403, "read_only", "this server is read-only")

    def load(self, state: EngineState) -> None:
        """Load the model of a state: once, by whoever needs it first."""
        with self._loading:
            _ = state.extractor

    @contextmanager
    def writing(self, waits: Callable[[], object] | None = None) -> Iterator[Engine]:
        """Open the engine to change it, and close it again: one thread of one process at a time.

        `waits` is called while another has it, and ends the waiting by what it raises. None: a `LockedError` after
        some seconds.
        """
        with self.alone(waits) as wait, self._opened(wait) as engine, self.metrics.stage("write"):
            self.engine.state.lend_extractor(engine.state)
            yield engine
            engine.state.lend_extractor(self.engine.state)

    @contextmanager
    def alone(self, waits: Callable[[], object] | None = None) -> Iterator[Callable[[], None]]:
        """Keep the other threads from writing; yield what waits once more for others. `waits`: see `writing`."""
        until = time.monotonic() + _LOCK_SECONDS

        def wait() -> None:
            if waits is not None:
                waits()
            elif time.monotonic() > until or self.stopping:
                raise LockedError(f"{self.settings.directory}: somebody else is writing")

        while not self._writing.acquire(timeout=0.1):
            wait()
        try:
            yield wait
        finally:
            self._writing.release()

    def _warm(self) -> None:
        try:
            state = self.engine.state
            self.load(state)
            noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
            pixels = self.decoders.pixels(encoded(np.repeat(np.repeat(noise, 16, axis=0), 16, axis=1)))
            view = state.view_of(pixels)
            verify_views(view, view, state.manifest.profile, calibration=state.calibration)
            options = SearchOptions(top_k=1, top_n=1, confirm=1)
            searching.search(state, pixels, options, box=None, expand=False, graph=False)
            self.ready = True
            log.info("ready")
        except Exception as error:  # noqa: BLE001 - it is not ready, which requests may say better
            log.error("warming up failed", exc_info=error)

    def _opened(self, wait: Callable[[], None]) -> Engine:
        while True:
            try:
                return Engine.open(self.settings.directory)
            except LockedError:
                wait()
                time.sleep(0.1)

    def _delete_lost(self) -> None:
        """Delete the files of jobs that were cut off, but for those that they have added."""
        state = self.engine.state
        for path in self.jobs.lost_files():
            if own_id(path, state.directory) not in state.store:
                path.unlink(missing_ok=True)


def _reader(settings: Settings) -> EngineReader:
    """Open what is served."""
    if settings.actors is None:
        if Path(settings.directory, "plan.json").exists():
            raise ConfigError(f"{settings.directory}: holds a plan of shards, no engine: say how many --actors")
        return Engine.open(settings.directory, readonly=True, auto_refresh=True)
    from delf_engine.shards.ray import Searcher

    return Searcher(settings.directory, actors=settings.actors)
