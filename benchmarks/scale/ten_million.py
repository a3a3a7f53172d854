"""Ten million synthetic images in ten shards: how fast they open, and a query beside the model of `shard cost`.

python -m benchmarks.scale.ten_million [--images 1000000]

An image has 60 words, of about 80 features, a twelfth of what photographs have: so all fit on a small disk.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

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
_QUERIES, _ROUNDS = 20, 3


def main() -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/scale_ten_million.json")
    parser.add_argument("--images", type=int, default=1_000_000, help="of a shard")
    args = parser.parse_args()
    single = [[query] for query in images(_QUERIES, _FEATURES, 2)]
    book, count = codebook(), _SHARDS * args.images
    with tempfile.TemporaryDirectory(prefix="delf-scale-") as temporary, two_nodes():
        place = Path(temporary, "place")
        plan = make_place(place, book, _SHARDS, args.images, _WORDS)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        small = []
        for number in _SMALL:
            index = index_of(book, plan, number, _WORDS, 0)
            index.save(Path(temporary, str(number)))
            search = partial(index.search_many, top_k=100, threads=1)
            small.append(times(time.process_time, search, single * _ROUNDS).min())
        slope = (small[1] - small[0]) / (_SMALL[1] - _SMALL[0])
        figures = Figures(
            device="cpu",
            extract_seconds=0,
            index_seconds=0,
            feature_bytes=0,
            index_bytes=size / count,
            query_seconds=max(0.0, small[0] - slope * _SMALL[0]),
            search_seconds=slope,
            tail=1,
        )
        model = estimate_shards(count, figures, shard=args.images)["query_core_seconds"]
        opening, held = timed(lambda: HeldParts(str(place), range(_SHARDS), book, 1))
        search = partial(held.search, top_k=100, frequencies=None)
        encoded = [index.encoded(query) for query in single]
        times(time.process_time, search, encoded)  # from the disk into memory
        measured = times(time.process_time, search, encoded * _ROUNDS).min()
        encoding = times(time.process_time, index.encoded, single).min()
        searcher = Searcher(place, actors=_SHARDS, codebook=book, cpus=0)
        walls = times(time.perf_counter, partial(searcher.search_many, top_k=100), single * _ROUNDS)
        searcher.close()
    found = {
        "images": count,
        "gigabytes": size / 1e9,
        "open_seconds": opening,
        "query_core_seconds": float(measured + encoding),
        "model_core_seconds": float(model),
        "over_model": float((measured + encoding) / model),
        "ten_actors_seconds": float(np.median(walls[_QUERIES:])),
        "ten_actors_fastest_seconds": float(walls.min()),
    }
    rows = [
        [name.replace("_", " "), f"{v:,.3f}" if isinstance(v, float) else f"{v:,}"] for name, v in found.items()
    ]
    print_table(f"{count:,} images of {_FEATURES} features in {_SHARDS} shards, two cores", ["", ""], rows)
    write_json(args.out, found)


if __name__ == "__main__":
    main()
