"""Eight shards in eight actors beside one index of the same size: the time of a query, and the memory of an actor.

python -m benchmarks.scale.search [--images 10000]
"""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

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
_QUERIES, _ROUNDS = 20, 6  # the first round reads from the disk


def main() -> None:
    """Measure, print, write JSON."""
    parser = options_parser(__doc__, "out/scale_search.json")
    parser.add_argument("--images", type=int, default=10_000, help="of a shard, a multiple of 5,000")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="delf-scale-") as temporary, two_nodes():
        place, book = Path(temporary, "place"), codebook()
        plan = make_place(place, book, _SHARDS, args.images, _WORDS)
        parts = find_parts(Place(place), "index", range(_SHARDS))
        one = AsmkIndex(book, plan.engine.profile.asmk)
        for part in parts:
            one.extend(AsmkIndex.load(place / part.folder, book))
        one.save(Path(temporary, "one"))
        searcher, same, seconds = Searcher(place, actors=_SHARDS, codebook=book, cpus=0), True, []
        for query in list(images(_QUERIES, _FEATURES, 2)) * _ROUNDS:  # in turns
            single, (names, scores) = timed(partial(one.search, query, 100))
            sharded, ((ids, values),) = timed(partial(searcher.index.search_many, [query], 100))
            seconds.append((single, sharded))
            same &= (ids, values.tobytes()) == (names, scores.tobytes())
        actors = subprocess.run(["pgrep", "-f", "^ray::HeldParts"], capture_output=True, text=True, check=True)
        anonymous = max(memory("RssAnon", pid) or 0 for pid in actors.stdout.split())
    rounds = 1e3 * np.array(seconds).reshape(_ROUNDS, _QUERIES, 2)[1:]
    (one_ms, sharded_ms), (one_best, sharded_best) = np.median(rounds, (0, 1)), rounds.min(0).mean(0)
    maps = sum(seal["bytes"] for part in parts for seal in part.files.values()) / _SHARDS
    found = {"one index, median ms": one_ms, "eight actors, median ms": sharded_ms}
    found |= {"one index, fastest round, ms": one_best, "eight actors, fastest round, ms": sharded_best}
    found |= {"maps of an actor, MB": maps / 1e6, "memory beside them, MB": anonymous / 1e6}
    rows = [[name, f"{value:.1f}"] for name, value in found.items()] + [["same bits", str(same)]]
    print_table(f"{_SHARDS * args.images:,} images in {_SHARDS} shards, two cores", ["", ""], rows)
    write_json(args.out, {name: float(value) for name, value in found.items()} | {"same": same})


if __name__ == "__main__":
    main()
