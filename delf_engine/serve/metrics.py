"""Figures for Prometheus: requests, the time of every stage, what waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from delf_engine.engine.state import EngineState

_STAGES = "wait, decode, extract, candidates, answer, picture, write"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = kept = CollectorRegistry()
        timed = partial(Histogram, buckets=_SECONDS, registry=kept)
        labels = ["method", "route", "status"]
        self.requests = Counter("delf_engine_requests", "Requests that were answered", labels, registry=kept)
        self.latency = timed("delf_engine_request_seconds", "From the first byte to the last", ["route"])
        self.stages = timed("delf_engine_stage_seconds", f"Time of stages: {_STAGES}", ["stage"])
        self.busy = Gauge("delf_engine_work", "Work that runs or waits", ["queue"], registry=kept)
        self.images = Gauge("delf_engine_images", "Images of the engine", registry=kept)
        self.jobs = Counter("delf_engine_jobs", "Jobs that have ended", ["state"], registry=kept)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - begin)

    def timed(self, state: EngineState) -> EngineState:
        """Return a state whose extraction and candidate search are timed."""
        return cast("EngineState", _TimedState(state, self))


class _Timed:
    """Something whose methods of some names are timed as stages."""

    stages: Mapping[str, str] = MappingProxyType({})

    def __init__(self, of: Any, metrics: Metrics) -> None:
        self._of, self._metrics = of, metrics

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        stage = self.stages.get(name)
        if stage is None:
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._metrics.stage(stage):
                return value(*args, **kwargs)

        return call


class _TimedIndex(_Timed):
    stages = MappingProxyType({"search": "candidates"})


class _TimedState(_Timed):
    stages = MappingProxyType({"view_of": "extract", "fine_of": "extract"})

    @property
    def index(self) -> Any:
        return _TimedIndex(self._of.index, self._metrics)
