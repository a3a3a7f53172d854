"""Ten million synthetic images in ten shards: how fast they open, and a query beside the model of `shard cost`.

python -m benchmarks.scale.ten_million [--images 1000000]

An image has 60 words, of about 80 features, a twelfth of what photographs have: so all fit on a small disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import options_parser, print_table, timed, write_json
from benchmarks.index.synthetic import images
from benchmarks.scale.cluster import two_nodes
from benchmarks.scale.synthetic import codebook, index_of, make_place
from delf_engine.shards import Figures, estimate_shards
from delf_engine.shards.costs import times
from delf_engine.shards.ray import Searcher
from delf_engine.shards.searching import HeldParts

_SHARDS = 10
_FEATURES, _WORDS = 80, 60  # of an image
_SMALL = (50_000, 400_000)  # images that the figures of the model are measured at
_QUERIES, _ROUNDS = 20, 4


def main() -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/scale_ten_million.json")
    parser.add_argument("--images", type=int, default=1_000_000, help="of a shard, a multiple of 5,000")
    args = parser.parse_args()
    queries, book = [[query] for query in images(_QUERIES, _FEATURES, 2)], codebook()
    with tempfile.TemporaryDirectory(prefix="delf-scale-") as temporary, two_nodes():
        place, count = Path(temporary, "place"), _SHARDS * args.images
        plan = make_place(place, book, _SHARDS, args.images, _WORDS)
        size, small = sum(path.stat().st_size for path in place.rglob("*.npy")), []
        for number in _SMALL:
            index = index_of(book, plan, number, _WORDS, 0)
            index.save(Path(temporary, str(number)))
            small.append(_fastest(time.process_time, partial(index.search_many, top_k=100, threads=1), queries))
        slope = (small[1] - small[0]) / (_SMALL[1] - _SMALL[0])
        figures: Any = dict.fromkeys(("extract_seconds", "index_seconds", "feature_bytes"), 0.0)
        figures |= {"query_seconds": max(0.0, small[0] - slope * _SMALL[0]), "search_seconds": slope}
        figures = Figures(device="cpu", index_bytes=size / count, tail=1, **figures)
        model = estimate_shards(count, figures, shard=args.images)["query_core_seconds"]
        opening, held = timed(lambda: HeldParts(str(place), range(_SHARDS), book, 1))
        encoding = _fastest(time.process_time, index.encoded, queries)
        search, encoded = partial(held.search, top_k=100, frequencies=None), list(map(index.encoded, queries))
        measured = encoding + _fastest(time.process_time, search, encoded)
        searcher = Searcher(place, actors=_SHARDS, codebook=book, cpus=0)
        wall = _fastest(time.perf_counter, partial(searcher.index.search_many, top_k=100), queries)
    found = {"gigabytes": size / 1e9, "seconds to open": opening, "core seconds a query": measured}
    found |= {"by the model": model, "over the model": measured / model, "seconds, ten actors on two cores": wall}
    rows = [[name, f"{value:.3f}"] for name, value in found.items()]
    print_table(f"{count:,} images of {_FEATURES} features in {_SHARDS} shards", ["", ""], rows)
    write_json(args.out, found)


def _fastest(clock: Callable[[], float], call: Callable[[Any], Any], queries: list[Any]) -> float:
    """Return the mean over queries of the fastest of several rounds: the first reads from the disk."""
    return float(np.mean(times(clock, call, queries * _ROUNDS).reshape(_ROUNDS, -1).min(0)))


if __name__ == "__main__":
    main()
