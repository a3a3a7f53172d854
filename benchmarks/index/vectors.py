"""Rankings of global vectors without geometry: k-reciprocal re-ranking and diffusion, beside dense NumPy.

    python -m benchmarks.index.vectors [--images 100000] [--dim 512] [--queries 100] [--naive 3000]

Vectors are random, in clusters of about 20. Each row is measured in a process of its own: seconds until the graph
is there, milliseconds a query, the most memory that the process had at any time, the vectors included. Dense
NumPy, as the methods are published, needs a matrix of all pairs, of the queries too: all its time stands under
graph. It is measured on `--naive` images beside ours, and how many of the first 10 results agree is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import measured_apart, memory, options_parser, print_markdown, timed, write_json
from delf_engine.vectors import DiffusionGraph, ReciprocalGraph

Matrix = npt.NDArray[Any]

_NAME = "benchmarks.index.vectors"
_CLUSTER = 20
_SPREAD = 1.0  # length of a vector's own part beside its cluster's
_TOP = 10  # results that are compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/index_vectors.json")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--naive", type=int, default=3000, help="images for dense NumPy")
    args = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for method in ("k-reciprocal", "diffusion"):
        for images, dense in ((args.images, False), (args.naive, False), (args.naive, True)):
            found = measured_apart(_NAME, "measure", method, int(dense), images, args.dim, args.queries)
            rows.append({"method": method, "dense": dense, "images": images, **found})
        ours, naive = rows[-2], rows[-1]
        first = zip(ours.pop("first"), naive.pop("first"), strict=True)
        naive["same_first"] = float(np.mean([len(set(a) & set(b)) / _TOP for a, b in first]))
        naive["ratio"] = _total(naive, args.queries) / _total(ours, args.queries)
        rows[-3].pop("first")
    print_markdown(
        f"Rankings without geometry, {args.dim}-D, {args.queries} queries",
        ["", "images", "graph s", "ms a query", "peak MB", "times ours", "same first 10"],
        [
            [
                f"{row['method']}, {'dense NumPy' if row['dense'] else 'ours'}",
                f"{row['images']:,}",
                f"{row['graph_s']:.1f}",
                f"{row['query_ms']:.1f}",
                f"{row['peak_mb']:,.0f}",
                f"{row['ratio']:.1f}" if row["dense"] else "",
                f"{row['same_first']:.0%}" if row["dense"] else "",
            ]
            for row in rows
        ],
    )
    write_json(args.out, {"dim": args.dim, "queries": args.queries, "rows": rows})


def _total(row: dict[str, Any], queries: int) -> float:
    return float(row["graph_s"] + queries * row["query_ms"] / 1e3)


def measure(method: str, dense: bool, images: int, dim: int, queries: int) -> dict[str, Any]:
    """Return what one method costs, and the first results of each query."""
    vectors, asked = clustered(images, queries, dim)
    if dense:
        ranked = dense_reciprocal if method == "k-reciprocal" else dense_diffusion
        graph_s, first = timed(lambda: ranked(asked, vectors)[:, :_TOP])
        query_s = 0.0  # all at once
    elif method == "k-reciprocal":
        graph_s, reciprocal = timed(lambda: ReciprocalGraph(vectors))
        query_s, (_, first) = timed(lambda: reciprocal.rerank(asked))
    else:
        graph_s, diffusion = timed(lambda: DiffusionGraph(vectors))
        query_s, (_, first) = timed(lambda: diffusion.search(asked, 100))
    return {
        "graph_s": graph_s,
        "query_ms": query_s / queries * 1e3,
        "peak_mb": (memory("VmHWM") or 0) / 1e6,
        "first": first[:, :_TOP].tolist(),
    }


def clustered(images: int, queries: int, dim: int) -> tuple[Matrix, Matrix]:
    """Return unit vectors of a collection and of queries, float32, in the same clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, images // _CLUSTER), dim), dtype=np.float32)

    def drawn(count: int) -> Matrix:
        out = centres[rng.integers(len(centres), size=count)]
        out += _SPREAD * rng.standard_normal((count, dim), dtype=np.float32)
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        return out

    return drawn(images), drawn(queries)


def dense_reciprocal(queries: Matrix, vectors: Matrix, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Matrix:
    """Return rankings, (M, N), as k-reciprocal encoding is published: one matrix of queries and collection."""
    everything = np.concatenate([queries, vectors])
    distances = 1 - everything @ everything.T
    np.fill_diagonal(distances, -1)
    order = np.argsort(distances, axis=1)
    encodings = np.zeros_like(distances)

    def mutual(i: int, k: int) -> Matrix:
        near = order[i, : k + 1]
        return near[(order[near, : k + 1] == i).any(axis=1)]

    for i in range(len(everything)):
        reciprocal = support = mutual(i, k1)
        for j in reciprocal:
            further = mutual(j, round(k1 / 2))
            if len(np.intersect1d(further, reciprocal)) > 2 / 3 * len(further):
                support = np.union1d(support, further)
        weights = np.exp(-np.maximum(distances[i, support], 0))
        encodings[i, support] = weights / weights.sum()
    encodings = np.stack([encodings[near].mean(axis=0) for near in order[:, :k2]])
    count, out = len(queries), []
    for i in range(count):
        shared = np.minimum(encodings[i], encodings[count:]).sum(axis=1)
        out.append(np.argsort((1 - weight) * (1 - shared / (2 - shared)) + weight * distances[i, count:]))
    return np.stack(out)


def dense_diffusion(queries: Matrix, vectors: Matrix, neighbors: int = 50, alpha: float = 0.99) -> Matrix:
    """Return rankings, (M, N), by diffusion with a dense graph that is solved directly."""
    cosines = np.maximum(vectors @ vectors.T, 0).astype(np.float64)
    np.fill_diagonal(cosines, 0)
    listed = np.zeros(cosines.shape, bool)
    np.put_along_axis(listed, np.argsort(-cosines, axis=1)[:, :neighbors], True, axis=1)
    weights = np.where(listed & listed.T, cosines**3, 0)
    scale = 1 / np.sqrt(np.maximum(weights.sum(axis=1), 1e-12))
    start = np.maximum(queries @ vectors.T, 0).astype(np.float64) ** 3
    np.put_along_axis(start, np.argsort(-start, axis=1)[:, 10:], 0, axis=1)
    system = np.eye(len(vectors)) - alpha * scale[:, None] * weights * scale
    return np.argsort(-np.linalg.solve(system, start.T).T, axis=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3] == "1", *map(int, sys.argv[4:7]))))
    else:
        main()
