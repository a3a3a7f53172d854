"""Eight shards in eight actors beside one index of the same size: the time of a query, and the memory of an actor.

python -m benchmarks.scale.search [--images 12500]
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.common import memory, options_parser, print_table, timed, write_json
from benchmarks.index.synthetic import images
from benchmarks.scale.cluster import two_nodes
from benchmarks.scale.synthetic import codebook, make_place
from delf_engine import AsmkIndex
from delf_engine.shards.parts import find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.ray import Searcher

_SHARDS = 8
_FEATURES, _WORDS = 1000, 700  # of an image
_QUERIES, _ROUNDS = 20, 5


def main() -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/scale_search.json")
    parser.add_argument("--images", type=int, default=12_500, help="of a shard")
    args = parser.parse_args()
    queries = list(images(_QUERIES, _FEATURES, 2))
    with tempfile.TemporaryDirectory(prefix="delf-scale-") as temporary, two_nodes():
        place, book = Path(temporary, "place"), codebook()
        plan = make_place(place, book, _SHARDS, args.images, _WORDS)
        parts = find_parts(Place(place), "index", range(_SHARDS))
        one = AsmkIndex(book, plan.engine.profile.asmk)
        for part in parts:
            one.extend(AsmkIndex.load(place / part.folder, book))
        one.save(Path(temporary, "one"))
        searcher = Searcher(place, actors=_SHARDS, codebook=book, cpus=0)
        same, single, sharded = True, [], []
        for _ in range(_ROUNDS):
            for query in queries:
                seconds, (names, scores) = timed(partial(one.search, query, 100))
                single.append(seconds)
                seconds, ((ids, values),) = timed(partial(searcher.search_many, [query], 100))
                sharded.append(seconds)
                same &= (ids, values.tobytes()) == (names, scores.tobytes())
        actors = [
            memory("RssAnon", path.parent.name) or 0
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.read_bytes().startswith(b"ray::HeldParts")
        ]
        searcher.close()
    warm = slice(_QUERIES, None)  # the first round reads the files
    found = {
        "shards": _SHARDS,
        "images": _SHARDS * args.images,
        "same": same,
        "one_ms": 1e3 * statistics.median(single[warm]),
        "sharded_ms": 1e3 * statistics.median(sharded[warm]),
        "one_fastest_ms": 1e3 * min(single),
        "sharded_fastest_ms": 1e3 * min(sharded),
        "maps_mb": sum(seal["bytes"] for part in parts for seal in part.files.values()) / _SHARDS / 1e6,
        "anonymous_mb": max(actors) / 1e6,
    }
    rows = [[name.replace("_", " "), f"{v:,.1f}" if isinstance(v, float) else str(v)] for name, v in found.items()]
    print_table("eight actors beside one index, two cores", ["", ""], rows)
    write_json(args.out, found)


if __name__ == "__main__":
    main()
