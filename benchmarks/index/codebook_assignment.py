"""What it costs to assign descriptors to visual words, and how often the fast mode finds the exact ones.

    python -m benchmarks.index.codebook_assignment [--words 4096 16384 65536] [--codebook FILE --features STORE]

Beside both modes of `Codebook.assign` stand faiss's searches over the same centroids, all in one thread and in
turn: flat; an inverted file with as many cells as ours, of which it visits as many as ours or a third; and HNSW
(32 neighbours, efSearch 64). Recall is against the exact mode; the last column is the time over the fast mode's.
By default words and descriptors are synthetic (`index/synthetic.py`), the words further draws of the same. With
``--features`` descriptors are drawn from a feature store, and with ``--codebook`` the words are those of a file.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.common import options_parser, print_rows, timed, write_json
from benchmarks.index.synthetic import descriptors as synthetic
from delf_engine.index import Codebook
from delf_engine.storage import FeatureStore

_QUERY = 1000  # descriptors of a query
_QUERY_WORDS = 5
_NEIGHBOURS, _EF_SEARCH = 32, 64  # of HNSW

Descriptors = npt.NDArray[np.float32]
Search = Callable[[Descriptors, int], npt.NDArray[Any]]  #: (N, D) descriptors and k to (N, k) words


def stored(path: Path, n: int, rng: np.random.Generator) -> Descriptors:
    """Return at most n descriptors of a feature store, at random."""
    with FeatureStore.open(path, readonly=True) as store:
        data = np.concatenate([item.descriptors for item in store.get_many(list(store.ids()))])
    return data[rng.permutation(len(data))[:n]]


def searches(book: Codebook) -> dict[str, tuple[float, Search]]:
    """Return the ways to find words by name: the seconds to build each, and the search of one thread."""
    import faiss

    cells = min(book.words, 1 << round(np.log2(4 * np.sqrt(book.words))))
    probes = round(4 * np.sqrt(cells))
    flat = faiss.IndexFlatL2(book.dim)
    inverted: Any = faiss.index_factory(book.dim, f"IVF{cells},Flat")
    graph = faiss.IndexHNSWFlat(book.dim, _NEIGHBOURS)
    graph.hnsw.efSearch = _EF_SEARCH
    inverted.cp.min_points_per_centroid = 1  # words are few a cell, and no warning is due
    built = {index: timed(lambda: _filled(index, book.centroids))[0] for index in (flat, inverted, graph)}  # noqa: B023

    def visiting(count: int) -> Search:
        chosen: Any = faiss.SearchParametersIVF()
        chosen.nprobe = count
        return lambda x, k: inverted.search(x, k, params=chosen)[1]

    fast, _ = timed(lambda: Codebook(book.centroids).assign(book.centroids[:1], mode="fast", threads=1))
    return {
        "exact": (0.0, lambda x, k: book.assign(x, k, threads=1)),
        "fast": (fast, lambda x, k: book.assign(x, k, mode="fast", threads=1)),
        "faiss flat": (built[flat], lambda x, k: flat.search(x, k)[1]),
        f"faiss IVF{cells}, {probes} cells": (built[inverted], visiting(probes)),
        f"faiss IVF{cells}, {probes // 3} cells": (built[inverted], visiting(probes // 3)),
        f"faiss HNSW{_NEIGHBOURS}, ef {_EF_SEARCH}": (built[graph], lambda x, k: graph.search(x, k)[1]),
    }


def _filled(index: Any, centroids: Descriptors) -> None:
    index.train(centroids)
    index.add(centroids)


def measure(book: Codebook, data: Descriptors, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each way to find words."""
    query = data[:_QUERY]
    k = min(_QUERY_WORDS, book.words)
    ways = searches(book)
    found = {name: run(data, k) for name, (_, run) in ways.items()}  # and warms up
    nearest = {name: run(data, 1) for name, (_, run) in ways.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (_, run) in ways.items():
            times[name].append((timed(lambda: run(data, 1))[0], timed(lambda: run(query, k))[0]))  # noqa: B023
    rows = []
    for name, (build, _) in ways.items():
        all_s, query_s = (statistics.median(each) for each in zip(*times[name], strict=True))
        same = [np.isin(a, b).mean() for a, b in zip(found["exact"], found[name], strict=True)]
        rows.append(
            {
                "words": book.words,
                "search": name,
                "us_a_descriptor": all_s / len(data) * 1e6,
                "query_ms": query_s * 1e3,
                "recall_at_1": float((nearest[name] == nearest["exact"]).mean()),
                "recall_at_k": float(np.mean(same)),
                "build_s": build,
            }
        )
    fast = next(row for row in rows if row["search"] == "fast")
    for row in rows:
        row["times_the_fast"] = row["us_a_descriptor"] / fast["us_a_descriptor"]
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure each number of words and search, print a table, write JSON."""
    parser = options_parser(__doc__, "out/codebook_assignment.json")
    parser.add_argument(
        "--words", type=int, nargs="+", default=[4096, 16384, 65536], help="of synthetic codebooks"
    )
    parser.add_argument("--codebook", type=Path, nargs="+", help="codebook files instead of synthetic words")
    parser.add_argument("--features", type=Path, help="feature store instead of synthetic descriptors")
    parser.add_argument("--descriptors", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(1)
    data = stored(args.features, args.descriptors, rng) if args.features else synthetic(args.descriptors, rng)
    books = (Codebook.load(p) for p in args.codebook) if args.codebook else (_synthetic_books(args.words, rng))
    with threadpool_limits(1):
        rows = [row for book in books for row in measure(book, data, args.rounds)]
    title = f"one thread: {len(data)} descriptors to 1 word, a query of {min(len(data), _QUERY)} to {_QUERY_WORDS}"
    columns = {
        "words, search": "{words:,} {search}",
        "us a descriptor": "{us_a_descriptor:.1f}",
        "query ms": "{query_ms:.1f}",
        "recall@1": "{recall_at_1:.4f}",
        "recall@5": "{recall_at_k:.4f}",
        "build s": "{build_s:.2f}",
        "x fast": "{times_the_fast:.2f}",
    }
    print_rows(title, rows, columns)
    write_json(args.out, {"descriptors": len(data), "rounds": args.rounds, "rows": rows})


def _synthetic_books(words: list[int], rng: np.random.Generator) -> list[Codebook]:
    return [Codebook(synthetic(count, rng)) for count in words]


if __name__ == "__main__":
    main()
