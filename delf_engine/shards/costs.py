"""What a collection of N photographs takes: time, storage, memory and the time of a query, from measured figures.

Extraction, features and index grow in proportion to N. A query takes a fixed time, to extract it and to verify its
candidates, and one that grows with the images of a shard. All shards are searched at once: the answer waits for the
slowest of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import Config
from delf_engine.engine import Engine
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.support.threads import usable_cores

_PHOTOGRAPHS = 6
_SIZES = (500, 2000)  # images of the synthetic index at which queries are timed
_QUERIES = 40
_PIXELS = (1024, 768)
_SEARCHER = 200_000_000  # bytes of a process that searches, beside the files that it maps


class Figures(Config):
    """What was measured, a photograph at a time on one machine.

    Attributes
    ----------
    photograph_bytes : int
        Of its file.
    extract_seconds : float
        On all cores of the machine.
    cores : int
        Of the machine.
    device : str
        What extracted.
    feature_bytes, index_bytes : float
        In the feature store and in the index.
    index_seconds : float
        To index it from its stored features.
    query_seconds : float
        Of a query, whatever the number of images: extraction, words, and verification of its candidates.
    search_seconds : float
        Of a query for each image of a shard, one core.
    tail : float
        Of queries, the slowest of a hundred over the median.
    """

    photograph_bytes: int
    extract_seconds: float
    cores: int
    device: str
    feature_bytes: float
    index_bytes: float
    index_seconds: float
    query_seconds: float
    search_seconds: float
    tail: float


def measure_shards(model: str | os.PathLike[str] = "delf-r18", *, seed: int = 0) -> Figures:
    """Measure on this machine, in less than a minute, on synthetic photographs and features.

    Parameters
    ----------
    model : str or path
        Checkpoint with a codebook.
    seed : int
        Of the photographs and the features.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(prefix="delf-cost-") as folder:
        with Engine.create(Path(folder, "e"), model=model, index="asmk") as engine:
            extractor = engine.extractor
            photos = [_photograph(rng) for _ in range(_PHOTOGRAPHS + 1)]
            extractor(photos[0])  # compiles and warms up
            extracted, seconds = _timed(lambda: [extractor(photo) for photo in photos[1:]])
            per_image = max(1, round(np.mean([len(features) for features in extracted])))
            medians, indexed = [], []
            for size in _SIZES:
                more = [_features(rng, per_image, engine) for _ in range(size - len(engine))]
                names = [f"{len(engine) + i}" for i in range(len(more))]
                _, took = _timed(lambda names=names, more=more: engine.add_features(zip(names, more, strict=True)))  # type: ignore[misc]
                indexed.append(took / len(more))
                queries = [_features(rng, per_image, engine) for _ in range(_QUERIES)]
                times = np.array([_timed(lambda q=q: engine.index.search(q, 100))[1] for q in queries])  # type: ignore[misc]
                medians.append(float(np.median(times)))
            whole = np.array([_timed(lambda q=q: engine.search(q, confirm=0))[1] for q in extracted])  # type: ignore[misc]
            growth = max(0.0, (medians[1] - medians[0]) / (_SIZES[1] - _SIZES[0]))
            info = engine.info()
    return Figures(
        photograph_bytes=500_000,
        extract_seconds=seconds / _PHOTOGRAPHS,
        cores=usable_cores(),
        device="gpu" if extractor.on_gpu else "cpu",
        feature_bytes=info.store["bytes"] / _SIZES[-1],
        index_bytes=info.index["bytes"] / _SIZES[-1],
        index_seconds=indexed[-1],
        query_seconds=seconds / _PHOTOGRAPHS + float(np.median(whole)) - growth * _SIZES[1],
        search_seconds=growth,
        tail=float(np.quantile(times, 0.99) / np.median(times)),
    )


def estimate_shards(photographs: int, figures: Figures, *, shard: int = 1_000_000) -> dict[str, Any]:
    """Return what `photographs` take, as plain values: core-hours, bytes, shards, seconds of a query.

    Parameters
    ----------
    photographs : int
    figures : Figures
    shard : int
        Photographs that one searcher holds.

    Raises
    ------
    ConfigError
        If a number is below 1.
    """
    if min(photographs, shard) < 1:
        raise ConfigError(f"photographs and shard must be at least 1, got {photographs} and {shard}")
    f, shards = figures, -(-photographs // shard)
    held = min(photographs, shard)
    alone = f.query_seconds + held * f.search_seconds
    slowest = held * f.search_seconds * (f.tail if shards > 1 else 1.0)
    hours = photographs / 3600
    workers, unit = (f.cores, "core") if f.device == "cpu" else (1, "card")
    return {
        "photographs": photographs,
        "photograph_bytes": photographs * f.photograph_bytes,
        f"extract_{unit}_hours": hours * f.extract_seconds * workers,
        "index_core_hours": hours * f.index_seconds * f.cores,
        "feature_bytes": round(photographs * f.feature_bytes),
        "index_bytes": round(photographs * f.index_bytes),
        "shards": shards,
        "memory_bytes_a_searcher": round(held * f.index_bytes) + _SEARCHER,
        "query_seconds": alone,
        "query_seconds_slowest_shard": f.query_seconds + slowest,
        "query_core_seconds": f.query_seconds + photographs * f.search_seconds,
    }


def _photograph(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return pixels with structure at several sizes, (H, W, 3) uint8."""
    width, height = _PIXELS
    image = np.full((height, width, 3), 128.0)
    for cell in (8, 32, 128):
        grid = rng.normal(0, 40, (height // cell + 1, width // cell + 1, 3))
        image += grid.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return np.clip(image, 0, 255).astype(np.uint8)


def _features(rng: np.random.Generator, count: int, engine: Engine) -> LocalFeatures:
    """Return features near words of the engine, as those of photographs are, and a global vector if it keeps them."""
    centroids = engine.index.encoder.centroids  # type: ignore[union-attr]
    rows = centroids[rng.integers(0, len(centroids), count)] + rng.normal(0, 0.03, (count, centroids.shape[1]))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vector = None
    if engine.manifest.vectors:
        vector = rng.normal(size=engine.manifest.vectors).astype(np.float32)
        vector /= np.linalg.norm(vector)
    keypoints = rng.uniform(0, 1, (count, 2)) * (np.array(_PIXELS) - 1)
    return LocalFeatures(keypoints, np.ones(count), np.linspace(2, 1, count), rows, _PIXELS, vector)  # type: ignore[arg-type]


def _timed(call: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start
