"""From a seed to a folder of photographs, in the layout of the revisited benchmarks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from delf_engine.errors import ConfigError, DelfEngineError
from delf_engine.evaluation.ground_truth import GroundTruth, save_ground_truth
from delf_engine.support.threads import usable_cores
from delf_engine.synthesis.buildings import landmark
from delf_engine.synthesis.folder import (
    PARTS,
    PHOTOS,
    SUMMARY,
    disk_errors,
    explained,
    identity,
    known_records,
    prepared,
    room_for,
    whole,
    write,
)
from delf_engine.synthesis.plan import Chunk, Options, plan, taken
from delf_engine.synthesis.records import GEOMETRY, PhotoRecord
from delf_engine.synthesis.truth import ground_truth

__all__ = ["DEFAULT_NAME", "Synthesized", "synthesize"]

#: The ground truth is ``gnd_NAME.pkl``.
DEFAULT_NAME = "synthetic5k"

Progress: TypeAlias = Callable[[int, int], None]

_SHUFFLED = 31  # kind of random stream


@dataclass(frozen=True, eq=False)
class Synthesized:
    """A synthesized set on disk.

    Attributes
    ----------
    folder : Path
        Holds ``jpg/NAME.jpg``, ``gnd_NAME.pkl``, ``geometry.jsonl`` and ``synthesis.json``.
    ground_truth : Path
    options : Options
    counts : dict of str to int
        Photographs of each kind, and the lengths of the easy, hard and junk lists together.
    sha256 : str
        Of all photographs and the ground truth: equal for equal options on one version of the libraries.
    rendered : int
        Photographs that this call wrote; the others were there.
    seconds : float
        That this call took.
    """

    folder: Path
    ground_truth: Path
    options: Options
    counts: dict[str, int]
    sha256: str
    rendered: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "folder": str(self.folder),
            "ground_truth": str(self.ground_truth),
            "options": self.options.to_dict(),
            "counts": self.counts,
            "sha256": self.sha256,
            "rendered": self.rendered,
            "seconds": round(self.seconds, 1),
        }


def synthesize(
    folder: str | os.PathLike[str],
    *,
    images: int = 5000,
    queries: int = 70,
    landmarks: int = 14,
    seed: int = 0,
    longer_side: int = 640,
    name: str = DEFAULT_NAME,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Synthesized:
    """Render photographs of invented landmarks among other places, in the layout of the revisited benchmarks.

    A call that was stopped goes on where it was: photographs that are whole are kept. The same options give the
    same bits for any number of workers.

    Parameters
    ----------
    folder : path
        Made if it is missing; else empty, or of an earlier call with the same options.
    images : int
        In the gallery. About a quarter shows a landmark.
    queries : int
        Besides the gallery, shared out evenly among the landmarks.
    landmarks : int
    seed : int
        Another one gives other landmarks.
    longer_side : int
        Of the largest photographs, in pixels.
    name : str
        Of the ground truth: ``gnd_NAME.pkl``.
    workers : int or None
        Processes; None takes one for each core that may be used.
    progress : callable or None
        Called with the photographs that are done and all of them.

    Returns
    -------
    Synthesized

    Raises
    ------
    ConfigError
        If an option is out of range, or `name` is no part of a file's name.
    MismatchError
        If the folder holds a set of other options, or of another version of the libraries.
    DataError
        If the folder holds other files, cannot be written, or the disk is too full.
    FormatError
        If ``synthesis.json`` of the folder is damaged.
    DelfEngineError
        If a process has died, as for lack of memory.
    """
    began = time.monotonic()
    options = Options(images, queries, landmarks, seed, longer_side)
    count = _checked_workers(workers)
    target = prepared(Path(folder), options, _checked_name(name))
    with disk_errors(target):
        room_for(target, options)
        chunks = plan(options)
        known = known_records(target)
        left = [chunk for chunk in chunks if not whole(target, chunk, known)]
        total, missing = (sum(len(chunk.shots) for chunk in some) for some in (chunks, left))
        finished = total - missing
        if progress is not None:
            progress(finished, total)
        for records in _rendered(target, options, left, count):
            known.update((record.name, record) for record in records)
            finished += len(records)
            if progress is not None:
                progress(finished, total)
        return _completed(target, options, name, known, missing, began)


def _checked_workers(workers: int | None) -> int:
    if workers is None:
        return usable_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"workers must be a whole number of at least 1, got {workers!r}")
    return workers


def _checked_name(name: str) -> str:
    if (
        not isinstance(name, str)
        or not name
        or len(name) > 100
        or any(c in name for c in "/\\\0:")
        or name.startswith(".")
    ):
        raise ConfigError(f"name must be part of a file's name, such as {DEFAULT_NAME!r}, got {name!r}")
    return name


# ------------------------------------------------------------------------------------------------- the pictures


def _rendered(folder: Path, options: Options, chunks: list[Chunk], workers: int) -> Iterator[list[PhotoRecord]]:
    """Render the chunks, and yield the records of each when its files are written."""
    workers = min(workers, len(chunks))
    if workers <= 1:
        threads = cv2.getNumThreads()
        try:
            for chunk in chunks:
                yield _read(_render(folder, options, chunk))
        finally:
            cv2.setNumThreads(threads)
        return
    from joblib.externals.loky import ProcessPoolExecutor

    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    executor = ProcessPoolExecutor(max_workers=workers, env=alone)
    futures: list[Future[list[str]]] = []
    try:
        futures += [executor.submit(_render, folder, options, chunk) for chunk in chunks]
        for future in as_completed(futures):
            yield _read(future.result())
    except BrokenExecutor as error:
        raise DelfEngineError(
            f"{folder}: a process that rendered has died, as it does for lack of memory; run again with fewer "
            "workers: what is written is kept"
        ) from error
    finally:  # what runs is short, what waits is dropped
        for future in futures:
            future.cancel()
        executor.shutdown()


def _render(folder: Path, options: Options, chunk: Chunk) -> list[str]:
    """Write the photographs of a chunk, then their records: these say that the photographs are whole."""
    cv2.setNumThreads(1)
    lines = []
    try:
        for shot in chunk.shots:
            data, record = taken(shot, options)
            write(folder / PHOTOS / f"{shot.name}.jpg", data)
            lines.append(record.to_json())
        write(folder / PARTS / f"{chunk.name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise explained(error, folder) from error
    return lines


def _read(lines: Iterable[str]) -> list[PhotoRecord]:
    return [PhotoRecord.from_json(line) for line in lines]


# --------------------------------------------------------------------------------------------------------- the end


def _completed(
    folder: Path,
    options: Options,
    name: str,
    records: dict[str, PhotoRecord],
    rendered: int,
    began: float,
) -> Synthesized:
    """Write ground truth, geometry and summary, and clear away what only a call that goes on would need."""
    gallery, queries = _ordered(options, records)
    truth = ground_truth(gallery, queries)
    target = folder / f"gnd_{name}.pkl"
    save_ground_truth(target, truth)
    every = [*queries, *gallery]
    write(folder / GEOMETRY, "".join(f"{record.to_json()}\n" for record in every).encode())
    digest = hashlib.sha256(target.read_bytes())
    for record in every:
        digest.update(f"{record.name} {record.sha256}\n".encode())
    made = Synthesized(
        folder, target, options, _counts(truth, every), digest.hexdigest(), rendered, time.monotonic() - began
    )
    summary = {
        **identity(options, name),
        "complete": True,
        "counts": made.counts,
        "sha256": made.sha256,
        "rendered": rendered,
        "seconds": round(made.seconds, 1),
        "landmarks": [_described(options.seed, number) for number in range(options.landmarks)],
    }
    write(folder / SUMMARY, json.dumps(summary, indent=1).encode())
    shutil.rmtree(folder / PARTS)
    return made


def _ordered(options: Options, records: dict[str, PhotoRecord]) -> tuple[list[PhotoRecord], list[PhotoRecord]]:
    """Return the gallery in an order that says nothing, and the queries by landmark."""
    wanted = [shot for chunk in plan(options) for shot in chunk.shots]
    queries = [records[shot.name] for shot in wanted if shot.kind == "query"]
    gallery = [records[shot.name] for shot in wanted if shot.kind != "query"]
    order = np.random.default_rng([options.seed, _SHUFFLED]).permutation(len(gallery))
    return [gallery[i] for i in order], queries


def _counts(truth: GroundTruth, records: list[PhotoRecord]) -> dict[str, int]:
    counts = {"images": len(truth.names), "queries": len(truth)}
    for kind in ("gallery", "town", "scene"):
        counts[kind if kind != "gallery" else "landmark"] = sum(record.kind == kind for record in records)
    for field in ("easy", "hard", "junk"):
        counts[field] = sum(len(each) for each in getattr(truth, field))
    return counts


def _described(seed: int, number: int) -> dict[str, Any]:
    """Return the faces of a landmark in the world, in metres: enough to make the homographies again."""
    faces = {}
    for surface in landmark(seed, number).subject.surfaces:
        face = surface.face
        arrays = {"corner": face.corner, "right": face.right, "down": face.down, "outline": face.outline}
        faces[face.name] = {key: np.asarray(value).tolist() for key, value in arrays.items()}
    return {"number": number, "faces": faces}
