"""Which index for how many images: time of a query, space on disk and in memory, from a thousand to a million.

    python -m benchmarks.index.sizes [--images 1000 10000 100000] [--kinds asmk kdtree ivf] [--folder DIR]

Each index is filled with made-up contents of the true size: words and codes (ASMK, see `synthetic.postings`),
bytes of descriptors in random cells (IVF), or descriptors (KD-trees, which are grown over them); 1,000 descriptors
an image. Searching it costs what it costs with photographs; what is found means nothing. Queries are synthetic
images of 1,000 descriptors, the median over them is printed, and of ASMK and IVF the arrays have been read once
before. Memory is that of the process which is no file, after searching. KD-trees above --most-kdtree images and
IVF indexes above --most-ivf are left out: the first hold everything in memory, the second need a disk of 48 KB an
image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import measured_apart, memory, options_parser, print_rows, write_json
from benchmarks.index.synthetic import DIM, descriptors, images, postings
from delf_engine import AsmkIndex, Codebook, KdTreeIndex, load_profile
from delf_engine.index import IvfIndex
from delf_engine.index.ivf.layout import Rows

_CHUNK = 10_000
_EACH, _WORDS_EACH = 1000, 700


_COLUMNS = {
    "images": "{images:,}",
    "kind": "{kind}",
    "ms a query": "{query_ms:,.1f}",
    "MB on disk": "{disk_mb:,.0f}",
    "MB in memory": "{memory_mb:,.0f}",
    "s to the first query": "{first_s:.2f}",
}


def main(given: Sequence[str] | None = None) -> None:
    """Measure each kind at each size in a process of its own; after each print the table, write JSON."""
    args = _arguments(given)
    if args.one:
        kind, count = args.one
        print(json.dumps(measured(kind, int(count), args)))
        return
    rows = []
    for count in args.images:
        for kind in args.kinds:
            if count > {"kdtree": args.most_kdtree, "ivf": args.most_ivf}.get(kind, count):
                continue
            options = ["--queries", args.queries, "--folder", args.folder]
            figures = measured_apart("benchmarks.index.sizes", "--one", kind, count, *options)
            rows.append({"kind": kind, "images": count, **figures})
            print_rows("Indexes by number of images, 1,000 descriptors each", rows, _COLUMNS)
            write_json(args.out, {"rows": rows})


def measured(kind: str, count: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of one kind and size."""
    folder = Path(tempfile.mkdtemp(prefix="delf-engine-", dir=args.folder))
    queries = list(images(args.queries, _EACH, 2))
    try:
        path = folder / "index"
        book = Codebook(descriptors(65536 if kind == "asmk" else 16384, np.random.default_rng(0)))
        _fill(kind, count, book, path)
        disk = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        start = time.perf_counter()
        index = _opened(kind, book, path)
        index.search(queries[0], 100)
        first = time.perf_counter() - start
        for query in queries:
            index.search(query, 100)
        times = []
        for query in queries:
            start = time.perf_counter()
            index.search(query, 100)
            times.append(time.perf_counter() - start)
        return {
            "query_ms": 1e3 * statistics.median(times),
            "disk_mb": disk / 1e6,
            "memory_mb": (memory("RssAnon") or 0) / 1e6,
            "first_s": first,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(kind: str, count: int, book: Codebook, path: Path) -> None:
    index = _empty(kind, book)
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        names = [f"photos/{first + i:08d}.jpg" for i in range(size)]
        contents: Sequence[Any]
        if kind == "asmk":
            contents = postings(size, book.words, _WORDS_EACH, first)
        elif kind == "ivf":
            contents = _rows(size, book.words, first)
        else:
            contents = list(descriptors(size * _EACH, np.random.default_rng(first)).reshape(size, _EACH, DIM))
        index._collection.add(dict(zip(names, contents, strict=True)))  # contents as the index keeps them
        index.save(path)


def _empty(kind: str, book: Codebook) -> Any:
    profile = load_profile()
    if kind == "kdtree":
        return KdTreeIndex(DIM, profile.kdtree)
    if kind == "ivf":
        return IvfIndex(book, profile.ivf)
    return AsmkIndex(book, profile.asmk.model_copy(update={"assignment": "fast"}))


def _opened(kind: str, book: Codebook, path: Path) -> Any:
    if kind == "kdtree":
        return KdTreeIndex.load(path)
    return IvfIndex.load(path, book) if kind == "ivf" else AsmkIndex.load(path, book)


def _rows(count: int, cells: int, seed: int) -> list[Rows]:
    rng = np.random.default_rng([seed, 2])
    where = rng.integers(cells, size=(count, _EACH), dtype=np.int32)
    data = rng.integers(100, 157, size=(count, _EACH, DIM), dtype=np.uint8)
    return list(zip(where, data, strict=True))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/index_sizes.json")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=["asmk", "kdtree", "ivf"], default=["asmk", "kdtree", "ivf"])
    parser.add_argument("--most-kdtree", type=int, default=10_000)
    parser.add_argument("--most-ivf", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the indexes")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
