"""An inverted file of many images: written, opened, searched, added to, merged, killed."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import measured_apart, memory, own_process, print_table, write_json
from benchmarks.index.synthetic import descriptors, images, postings
from delf_engine import AsmkIndex, Codebook, load_profile
from delf_engine.index.asmk.kernels import count_postings

_CHUNK = 25_000  # images of a segment as it is generated
_PER_IMAGE = 700  # words
_ADDED = 1000
_NAME = "benchmarks.index.large"
_BOOK = "codebook.safetensors"


def measure_large(folder: Path, count: int, words: int, queries: int, kills: int, out: Path) -> None:
    """Measure, print, write JSON; the index is made in `folder` unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _BOOK).exists():
        Codebook(descriptors(words, np.random.default_rng(0))).save(folder / _BOOK)
    written = _write(folder, count)
    result: dict[str, Any] = {"images": count, "words": words, "write_s": written}
    result |= measured_apart(_NAME, "look", folder, queries)
    result |= measured_apart(_NAME, "add", folder, 0, _ADDED)
    result |= _killed(folder, "add", kills)
    result |= _killed(folder, "merge", kills)
    result |= measured_apart(_NAME, "merge", folder)
    result |= {f"merged_{k}": v for k, v in measured_apart(_NAME, "look", folder, queries).items()}
    print_table(
        f"ASMK index of {count:,} images, {words:,} words",
        ["", ""],
        [[name.replace("_", " "), f"{v:{',.3f' if isinstance(v, float) else ','}}"] for name, v in result.items()],
    )
    write_json(out / "index_large.json", result)


def _write(folder: Path, count: int) -> float:
    """Write the index chunk by chunk, as images would be added, and return the seconds without generating them."""
    book = Codebook.load(folder / _BOOK)
    index = _opened(folder, book)
    seconds = 0.0
    for first in range(len(index), count, _CHUNK):
        chunk = postings(min(_CHUNK, count - first), book.words, _PER_IMAGE, first)
        start = time.perf_counter()
        # Words and codes as they are: descriptors would take a thousand times as long to make.
        index._collection.add({f"photos/{first + i:08d}.jpg": item for i, item in enumerate(chunk)})
        index.save(folder / "index")
        seconds += time.perf_counter() - start
        print(f"{first + len(chunk):,} images", file=sys.stderr, flush=True)
    return seconds


def _opened(folder: Path, book: Codebook) -> AsmkIndex:
    config = load_profile().asmk.model_copy(update={"assignment": "fast"})
    if not (folder / "index").exists():
        AsmkIndex(book, config).save(folder / "index")
    return AsmkIndex.load(folder / "index", book)


def _look(folder: Path, queries: int) -> dict[str, Any]:
    """Open and search."""
    start = time.perf_counter()
    book = Codebook.load(folder / _BOOK)
    loaded = time.perf_counter() - start
    AsmkIndex(book)  # imports
    opens = []
    for _ in range(5):
        start = time.perf_counter()
        index = _opened(folder, book)
        opens.append(time.perf_counter() - start)
    asked = list(images(queries, 1000, 2))
    first = _timed(index, asked[:1])[0]
    _timed(index, asked)  # from here on the postings of these queries are in memory
    times = _timed(index, asked)
    touched, scoring = _scoring(index, asked)
    info = index.info()
    disk = sum(f.stat().st_size for f in (folder / "index").rglob("*") if f.is_file())
    return {
        "postings": info.entries,
        "segments": info.segments,
        "bytes_a_posting": disk / info.entries,
        "codebook_ms": loaded * 1e3,
        "open_ms": statistics.median(opens) * 1e3,
        "first_open_ms": opens[0] * 1e3,
        "first_query_ms": first * 1e3,
        "query_ms": statistics.median(times) * 1e3,
        "slowest_query_ms": max(times) * 1e3,
        "postings_touched": touched,
        "score_ms": scoring * 1e3,
        "ns_a_posting": scoring / touched * 1e9,
        "read_ns_a_posting": _reading(index, asked) / touched * 1e9,
        "anonymous_mb": (memory("RssAnon") or 0) / 1e6,
    }


def _timed(index: AsmkIndex, queries: Sequence[Any]) -> list[float]:
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search(query, 100)
        times.append(time.perf_counter() - start)
    return times


def _scoring(index: AsmkIndex, queries: Sequence[Any]) -> tuple[float, float]:
    """Return the mean number of postings that a query touches, and the median seconds of scoring, on all cores."""
    touched, times = [], []
    cores = os.cpu_count() or 1
    for query in index._queries(queries, cores):
        counts = np.zeros(len(query[0]), np.int64)
        for segment in index._collection.segments:
            a = segment.arrays
            count_postings(query[0], a["word_offsets"], a["image_ids"], segment.alive, True, counts)
        start = time.perf_counter()
        index._score(query, cores)
        times.append(time.perf_counter() - start)
        touched.append(int(counts.sum()))
    return float(np.mean(touched)), statistics.median(times)


def _reading(index: AsmkIndex, queries: Sequence[Any]) -> float:
    """Return the median seconds of only reading the postings of a query, on all cores: the floor of scoring."""
    from numba import njit

    def read(words: Any, word_offsets: Any, image_ids: Any, codes: Any) -> Any:
        total, bits = 0, np.uint64(0)
        for word in words:
            for p in range(word_offsets[word], word_offsets[word + 1]):
                total += image_ids[p]
                bits ^= codes[p, 0]
        return total, bits

    compiled: Any = njit(nogil=True)(read)
    cores, times = os.cpu_count() or 1, []
    for words, _ in index._queries([*queries[:1], *queries], cores):
        parts = np.array_split(words, cores)
        start = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            for segment in index._collection.segments:
                arrays = [segment.arrays[name] for name in ("word_offsets", "image_ids", "codes")]
                list(pool.map(lambda part, arrays=arrays: compiled(part, *arrays), parts))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _add(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Add images from their descriptors on and save."""
    index = _opened(folder, Codebook.load(folder / _BOOK))
    several = list(images(count, 1000, 3 + first))
    index.codebook.assign(several[0].descriptors, 1, mode="fast")  # the clock starts when all is loaded
    start = time.perf_counter()
    index.add([f"added/{len(index)}/{i:06d}.jpg" for i in range(count)], several)
    aggregated = time.perf_counter()
    print("saving", file=sys.stderr, flush=True)
    index.save(folder / "index")
    end = time.perf_counter()
    return {f"add_{count}_s": end - start, f"add_{count}_save_s": end - aggregated}


def _merge(folder: Path) -> dict[str, Any]:
    index = _opened(folder, Codebook.load(folder / _BOOK))
    print("saving", file=sys.stderr, flush=True)
    start = time.perf_counter()
    index.compact()
    index.save(folder / "index")
    return {"merge_s": time.perf_counter() - start}


def _killed(folder: Path, what: str, times: int) -> dict[str, Any]:
    """Kill a process while it saves, and count how often something is missing of what was there before."""
    rng, book = np.random.default_rng(0), Codebook.load(folder / _BOOK)
    before = AsmkIndex.load(folder / "index", book)
    ids, query = before.ids(), next(images(1, 1000, 2))
    wanted = before.search(query, 100)
    lost = killed = 0
    for turn in range(times):
        values = [1000 * (turn + 1), 50] if what == "add" else []
        process = own_process(_NAME, what, folder, *values, stderr=subprocess.PIPE)
        assert process.stderr is not None
        process.stderr.readline()
        time.sleep(float(rng.uniform(0, 0.05 if what == "add" else 1e-5 * len(ids))))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        after = AsmkIndex.load(folder / "index", book)
        lost += after.ids()[: len(ids)] != ids
        if what == "merge":
            found = after.search(query, 100)
            lost += found[0] != wanted[0] or not np.array_equal(found[1], wanted[1])
    return {f"killed_during_{what}": killed, f"lost_during_{what}": int(lost)}


if __name__ == "__main__":
    name, place, *rest = sys.argv[1:]
    measures: dict[str, Any] = {"look": _look, "add": _add, "merge": _merge}
    print(json.dumps(measures[name](Path(place), *(int(value) for value in rest))))
