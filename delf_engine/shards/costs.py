"""What a collection of N photographs takes: time, storage, memory, the time of a query; from measured figures.

Extraction, features and index grow in proportion to N. A query takes a fixed time, and one that grows with the
images of a shard. All shards are searched at once: the answer waits for the slowest.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.config import Config
from delf_engine.engine import Engine
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures

_PHOTOGRAPHS = 6
_INDEXED = 500  # images
_COPIES = (8, 64)  # of them, in the indexes at which queries are timed: large ones, made in no time
_QUERIES = 40
_PIXELS = (1024, 768)
_SEARCHER = 200_000_000  # bytes of a process that searches, beside the files that it maps


class Figures(Config):
    """What was measured on one machine, a photograph or a query at a time.

    Attributes
    ----------
    device : "cpu" or "gpu"
        What extracted.
    extract_seconds, index_seconds : float
        Of a photograph: of one core, or of the GPU and what feeds it.
    feature_bytes, index_bytes : float
        Of a photograph, in the feature store and in the index.
    query_seconds : float
        Of a query on one core, whatever the number of images: it is extracted, and its candidates verified.
    search_seconds : float
        Of a query on one core, for each image of a shard.
    tail : float
        Of queries, the slowest of a hundred over the median.
    """

    device: str
    extract_seconds: float
    index_seconds: float
    feature_bytes: float
    index_bytes: float
    query_seconds: float
    search_seconds: float
    tail: float


def measure_shards(model: str | os.PathLike[str] = "delf-r18", *, seed: int = 0) -> Figures:
    """Measure on this machine, in about a minute, on synthetic photographs and features drawn by `seed`.

    Seconds are those of cores, where no GPU is at work, and the fastest of several calls counts: what else the
    machine does matters little.

    A `CheckpointError` or `ConfigError` if there is no such `model`, or no codebook beside it.
    """
    rng = np.random.default_rng(seed)
    path = tempfile.TemporaryDirectory(prefix="delf-cost-")
    with path as folder, Engine.create(Path(folder, "e"), model=model, index="asmk") as engine:
        extractor = engine.extractor
        clock = time.perf_counter if extractor.on_gpu else time.process_time
        warm, *photos = (_photograph(rng) for _ in range(_PHOTOGRAPHS + 1))
        extractor(warm)
        extracted = []
        extraction = times(clock, lambda photo: extracted.append(extractor(photo)), photos).min()
        many = round(np.mean([len(features) for features in extracted]))
        items = [(str(i), synthetic_features(rng, many, engine)) for i in range(_INDEXED)]
        indexing = times(clock, engine.add_features, [items])[0] / _INDEXED
        queries = [synthetic_features(rng, many, engine) for _ in range(_QUERIES)]
        searches = []
        for copies in _COPIES:
            large = engine.index.repeated(copies)
            large.save(Path(folder, str(copies)))
            large.search_many(queries, 100)  # from the disk into memory
            searches.append(times(clock, partial(large.search, top_k=100), queries))
        whole = times(clock, lambda query: engine.search(query, confirm=0), extracted).min()
        feature_bytes, index_bytes = engine.store.info().bytes / _INDEXED, large.info().bytes / len(large)
    growth = max(0.0, (searches[1].min() - searches[0].min()) / (_INDEXED * (_COPIES[1] - _COPIES[0])))
    return Figures(
        device="gpu" if extractor.on_gpu else "cpu",
        extract_seconds=float(extraction),
        index_seconds=float(indexing),
        feature_bytes=feature_bytes,
        index_bytes=index_bytes,
        query_seconds=float(extraction + whole),
        search_seconds=float(growth),
        tail=float(np.quantile(searches[1], 0.99) / np.median(searches[1])),
    )


def estimate_shards(photographs: int, figures: Figures, *, shard: int = 1_000_000) -> dict[str, Any]:
    """Return what so many photographs take, as plain values: hours, bytes, shards, seconds of a query.

    A `ConfigError` if a number is below 1.

    Parameters
    ----------
    photographs : int
    figures : Figures
    shard : int
        Photographs that one searcher holds.
    """
    if min(photographs, shard) < 1:
        raise ConfigError(f"photographs and shard must be at least 1, got {photographs} and {shard}")
    f, hours, held = figures, photographs / 3600, min(photographs, shard)
    search = held * f.search_seconds
    return {
        "photographs": photographs,
        f"extract_{'core' if f.device == 'cpu' else 'card'}_hours": hours * f.extract_seconds,
        "index_core_hours": hours * f.index_seconds,
        "feature_bytes": round(photographs * f.feature_bytes),
        "index_bytes": round(photographs * f.index_bytes),
        "shards": -(-photographs // shard),
        "searcher_memory_bytes": round(held * f.index_bytes) + _SEARCHER,
        "query_seconds": f.query_seconds + search,
        "query_seconds_slowest_shard": f.query_seconds + search * (f.tail if photographs > shard else 1.0),
        "query_core_seconds": f.query_seconds + photographs * f.search_seconds,
    }


def _photograph(rng: np.random.Generator) -> bytes:
    """Return a JPEG file with structure at several sizes."""
    width, height = _PIXELS
    image = np.full((height, width, 3), 128.0)
    for cell in (8, 32, 128):
        grid = rng.normal(0, 40, (height // cell + 1, width // cell + 1, 3))
        image += grid.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return bytes(cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8))[1])


def synthetic_features(rng: np.random.Generator, count: int, engine: Engine) -> LocalFeatures:
    """Return features near words of the engine, as those of photographs are, with a global vector if need be."""
    centroids: npt.NDArray[np.float32] = engine.index.encoder.centroids  # type: ignore[union-attr]
    rows = centroids[rng.integers(0, len(centroids), count)] + rng.normal(0, 0.03, (count, centroids.shape[1]))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vector = np.full(engine.manifest.vectors, max(engine.manifest.vectors, 1) ** -0.5, np.float32)
    keypoints = rng.uniform(0, 1, (count, 2)) * (np.array(_PIXELS) - 1)
    described = vector if len(vector) else None
    return LocalFeatures(keypoints, np.ones(count), np.linspace(2, 1, count), rows, _PIXELS, described)  # type: ignore[arg-type]


def times(
    clock: Callable[[], float], call: Callable[[Any], Any], arguments: Iterable[Any]
) -> npt.NDArray[np.float64]:
    """Return the seconds of each call, (N,)."""
    marks = [clock()]
    for argument in arguments:
        call(argument)
        marks.append(clock())
    return np.diff(marks)
