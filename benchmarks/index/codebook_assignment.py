"""What it costs to assign descriptors to visual words, and how often the fast mode finds the exact ones.

python -m benchmarks.index.codebook_assignment [--words 4096 16384 65536] [--codebook FILE --features STORE]

Beside both modes of `Codebook.assign` stands the plain flat search of faiss, in turn with them. By default words
and descriptors are synthetic (`synthetic.descriptors`); the words are further draws of the same. With
``--features`` descriptors are drawn from a feature store, and with ``--codebook`` the words are those of a file.
Processor time is of all threads together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import print_table, write_json
from benchmarks.index.synthetic import descriptors as synthetic
from delf_engine.index import Codebook
from delf_engine.index.codebook.cells import CellSearcher
from delf_engine.storage import FeatureStore

_QUERY = 1000  # descriptors of a query
_QUERY_WORDS = 5
_MODES = ("faiss flat", "exact", "fast")

Descriptors = npt.NDArray[np.float32]


def stored(path: Path, n: int, rng: np.random.Generator) -> Descriptors:
    """Return at most n descriptors of a feature store, at random."""
    with FeatureStore.open(path, readonly=True) as store:
        data = np.concatenate([item.descriptors for item in store.get_many(list(store.ids()))])
    return data[rng.permutation(len(data))[:n]]


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def measure(book: Codebook, data: Descriptors, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each mode."""
    import faiss

    flat = faiss.IndexFlatL2(book.dim)
    flat.add(book.centroids)
    query = data[:_QUERY]
    k = min(_QUERY_WORDS, book.words)
    runs: dict[str, Callable[[Descriptors, int], npt.NDArray[Any]]] = {
        "faiss flat": lambda x, n: flat.search(x, n)[1],
        "exact": lambda x, n: book.assign(x, n),
        "fast": lambda x, n: book.assign(x, n, mode="fast"),
    }
    build, _ = timed(lambda: CellSearcher(book.centroids))
    found = {mode: runs[mode](data, k) for mode in _MODES}  # and warms up
    nearest = {mode: runs[mode](data, 1) for mode in _MODES}
    times: dict[str, list[tuple[float, ...]]] = {mode: [] for mode in _MODES}
    for turn in range(rounds):
        for mode in _MODES[turn % 3 :] + _MODES[: turn % 3]:
            run = runs[mode]
            times[mode].append((*timed(lambda: run(data, 1)), *timed(lambda: run(query, k))))  # noqa: B023
    rows = []
    for mode in _MODES:
        all_s, all_cpu_s, query_s, query_cpu_s = (
            statistics.median(each) for each in zip(*times[mode], strict=True)
        )
        same = [np.isin(a, b).mean() for a, b in zip(found["exact"], found[mode], strict=True)]
        rows.append(
            {
                "words": book.words,
                "mode": mode,
                "us_a_descriptor": all_s / len(data) * 1e6,
                "cpu_us_a_descriptor": all_cpu_s / len(data) * 1e6,
                "query_ms": query_s * 1e3,
                "query_cpu_ms": query_cpu_s * 1e3,
                "recall_at_1": float((nearest[mode] == nearest["exact"]).mean()),
                "recall_at_k": float(np.mean(same)),
                "build_s": build if mode == "fast" else 0.0,
            }
        )
    for row in rows:
        row["flat_by_this_cpu"] = rows[0]["cpu_us_a_descriptor"] / row["cpu_us_a_descriptor"]
        row["flat_by_this_query_cpu"] = rows[0]["query_cpu_ms"] / row["query_cpu_ms"]
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure each number of words and mode, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--words", type=int, nargs="+", default=[4096, 16384, 65536], help="of synthetic codebooks"
    )
    parser.add_argument("--codebook", type=Path, nargs="+", help="codebook files instead of synthetic words")
    parser.add_argument("--features", type=Path, help="feature store instead of synthetic descriptors")
    parser.add_argument("--descriptors", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/codebook_assignment.json"))
    args = parser.parse_args(argv)
    rng = np.random.default_rng(1)
    data = stored(args.features, args.descriptors, rng) if args.features else synthetic(args.descriptors, rng)
    books = (Codebook.load(p) for p in args.codebook) if args.codebook else (_synthetic_books(args.words, rng))
    rows = [row for book in books for row in measure(book, data, args.rounds)]
    columns = ["words, mode", "us a descriptor", "CPU us", "query ms", "CPU ms", "recall@1", "recall@5"]
    table = [
        [
            f"{row['words']:,} {row['mode']}",
            *(
                f"{row[name]:.1f}"
                for name in ("us_a_descriptor", "cpu_us_a_descriptor", "query_ms", "query_cpu_ms")
            ),
            *(f"{row[name]:.5f}" for name in ("recall_at_1", "recall_at_k")),
            *(f"{row[name]:.2f}" for name in ("flat_by_this_cpu", "flat_by_this_query_cpu")),
        ]
        for row in rows
    ]
    columns += ["x flat (CPU)", "x flat (query CPU)"]
    title = f"{len(data)} descriptors to 1 word; a query of {min(len(data), _QUERY)} to {_QUERY_WORDS}"
    print_table(title, columns, table)
    write_json(args.out, {"descriptors": len(data), "rounds": args.rounds, "rows": rows})


def _synthetic_books(words: list[int], rng: np.random.Generator) -> list[Codebook]:
    return [Codebook(synthetic(count, rng)) for count in words]


if __name__ == "__main__":
    main()
