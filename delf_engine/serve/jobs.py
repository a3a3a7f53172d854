"""Long work, one job after the other; their state lies in the database, so that every server can show it."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from delf_engine.serve.database import Database
from delf_engine.serve.logs import log
from delf_engine.serve.metrics import Metrics
from delf_engine.serve.problems import Refused

State = Literal["queued", "running", "done", "cancelled", "failed", "interrupted"]

_BEAT_SECONDS, _LOST_SECONDS = 5.0, 30.0
_NOTE_SECONDS = 0.2  # between two notes of progress
_SHOWN = 100  # jobs of a list


class Added(BaseModel):
    """An image that a job has added."""

    id: str
    name: str


class Failure(BaseModel):
    """A photograph that a job could not add, and why."""

    name: str
    reason: str


class CopyPair(BaseModel):
    """Two images that are copies: `kind` as of `delf_engine.copies.Copy`, `score` of their pixels, up to 1."""

    a: str
    b: str
    kind: str
    score: float


class Job(BaseModel):
    """A job: what it does, how far it is, what became of each photograph.

    `error` is a code where all of it failed. ``interrupted``: the server that ran it is gone; what
    it had committed stays.
    """

    id: str
    kind: Literal["add", "duplicates", "recalibrate"]
    state: State
    done: int
    total: int
    created: float
    added: list[Added] = []
    skipped: list[Added] = []
    failed: list[Failure] = []
    copies: list[CopyPair] = []
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state not in ("queued", "running")


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The job is to end: somebody cancelled it, or the server goes down."""


class JobFailed(Exception):  # noqa: N818 - the job has failed, not the code
    """The job cannot be done; its text is the code that clients see."""


class Control:
    """What the work of a job reports to."""

    def __init__(self, jobs: Jobs, job_id: str) -> None:
        self._jobs, self.job_id = jobs, job_id
        self.cancelled = False
        self._noted = 0.0

    def progress(self, done: int, total: int) -> None:
        """Note how far it is; `Cancelled` if it is to end."""
        now = time.monotonic()
        if now - self._noted >= _NOTE_SECONDS or done == total:
            self._noted = now
            self._jobs.note(self.job_id, done, total)
        self.check()

    def check(self) -> None:
        """Raise `Cancelled` if it is to end."""
        if self._jobs.is_to_end(self.job_id):
            self.cancelled = True
            raise Cancelled


class Jobs:
    """The jobs of one server, of which so many wait at most, and the state of all."""

    def __init__(self, database: Database, metrics: Metrics, waiting: int) -> None:
        self._database, self._metrics, self._waiting = database, metrics, waiting
        self._owner = secrets.token_hex(8)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="jobs-alive", daemon=True)
        self._heart.start()

    def submit(
        self, kind: str, total: int, work: Callable[[Control], dict[str, Any]], files: Sequence[Path] = ()
    ) -> Job:
        """Queue a job; `work` returns its report, with what a `Job` has. `Refused` (429, 503) if that cannot be.

        `files` are what is to be deleted if it never gets to them.
        """
        if self._stopping.is_set():
            raise Refused(503, "stopping", "the server is going down", retry_after=5)
        open_jobs = "SELECT id FROM jobs WHERE owner = ? AND state IN ('queued', 'running')"
        if len(self._database.rows(open_jobs, self._owner)) > self._waiting:
            raise Refused(429, "busy", "too many jobs are waiting; try again", retry_after=10)
        job_id, now = secrets.token_hex(8), time.time()
        self._database.run(
            "INSERT INTO jobs (id, kind, state, done, total, created, seen, owner, files) "
            "VALUES (?, ?, 'queued', 0, ?, ?, ?, ?, ?)",
            *(job_id, kind, total, now, now, self._owner, json.dumps([str(path) for path in files])),
        )
        self._pool.submit(self._run, job_id, work)
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """Return a job; `Refused` if there is none."""
        rows = self._database.rows("SELECT * FROM jobs WHERE id = ?", job_id)
        if not rows:
            raise Refused(404, "unknown_job", "there is no such job")
        return _job(rows[0])

    def latest(self) -> list[Job]:
        """Return the latest jobs, the newest first."""
        return [
            _job(row) for row in self._database.rows(f"SELECT * FROM jobs ORDER BY created DESC LIMIT {_SHOWN}")
        ]

    def cancel(self, job_id: str) -> Job:
        """Ask a job to end, wherever it runs."""
        self._database.run("UPDATE jobs SET cancel = 1 WHERE id = ?", job_id)
        return self.get(job_id)

    def note(self, job_id: str, done: int, total: int) -> None:
        """Write how far a job is."""
        statement = "UPDATE jobs SET state = 'running', done = ?, total = ?, seen = ? WHERE id = ?"
        self._database.run(statement, done, total, time.time(), job_id)

    def is_to_end(self, job_id: str) -> bool:
        """Tell whether a job is to end."""
        return self._stopping.is_set() or bool(
            self._database.rows("SELECT 1 FROM jobs WHERE id = ? AND cancel = 1", job_id)
        )

    def lost_files(self) -> list[Path]:
        """Return the files of jobs whose server is gone, which are then marked as interrupted."""
        lost = [row for row in self._database.rows("SELECT * FROM jobs") if _job(row).state == "interrupted"]
        for row in lost:
            self._database.run("UPDATE jobs SET state = 'interrupted', files = '[]' WHERE id = ?", row["id"])
        return [Path(path) for row in lost for path in json.loads(row["files"])]

    def close(self) -> None:
        """Let the job that runs commit or give up what it has, and those that wait end; wait for that."""
        self._stopping.set()
        self._pool.shutdown()
        self._heart.join()

    def _run(self, job_id: str, work: Callable[[Control], dict[str, Any]]) -> None:
        control, report, state = Control(self, job_id), {}, "done"
        try:
            self.note(job_id, 0, self.get(job_id).total)
            report = work(control)
            state = "cancelled" if control.cancelled else "done"
        except Cancelled:
            state = "cancelled"
        except JobFailed as error:
            state, report = "failed", {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - a job that ends without a word would seem to run for ever
            log.error("job failed", exc_info=error, extra={"job": job_id})
            state, report = "failed", {"error": "failed"}
        text = json.dumps(report)
        self._database.run("UPDATE jobs SET state = ?, report = ?, files = '[]' WHERE id = ?", state, text, job_id)
        self._metrics.jobs.labels(state).inc()

    def _beat(self) -> None:
        """Say now and then that this server is alive."""
        while not self._stopping.wait(_BEAT_SECONDS):
            statement = "UPDATE jobs SET seen = ? WHERE owner = ? AND state IN ('queued', 'running')"
            try:
                self._database.run(statement, time.time(), self._owner)
            except sqlite3.Error as error:  # locked for long, or the disk is full: the next one may get through
                log.warning("jobs could not be kept alive", exc_info=error)


def _job(row: dict[str, Any]) -> Job:
    job = Job(**{**row, **json.loads(row["report"])})
    if not job.ended and time.time() - row["seen"] > _LOST_SECONDS:
        return job.model_copy(update={"state": "interrupted"})
    return job
