"""What 100 million photographs take by `delf-engine shard cost`, and what its model says of searches, measured.

python -m benchmarks.scale.costs [--photographs 100000000] [--shard 6000]
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import options_parser, print_table, write_json
from delf_engine.engine import Engine
from delf_engine.shards.costs import Figures, estimate_shards, measure_shards, synthetic_features, times

_ENCODED = 500
_FEATURES = 1000  # of an image
_QUERIES = 20


def main() -> None:
    """Measure, print what the model says and how it holds, write JSON."""
    parser = options_parser(__doc__, "out/shards.json")
    parser.add_argument("--photographs", type=int, default=100_000_000)
    parser.add_argument(
        "--shard", type=int, default=6000, help="images that stand for a shard in the measured searches"
    )
    args = parser.parse_args()
    figures = measure_shards()
    found = estimate_shards(args.photographs, figures)
    shown = {name: value / 1e9 if "bytes" in name else value for name, value in found.items()}
    rows = [
        [
            name.replace("bytes", "GB").replace("_", " "),
            f"{value:,}" if isinstance(value, int) else f"{value:,.2f}",
        ]
        for name, value in shown.items()
    ]
    print_table("what they take", ["what", "takes"], rows)
    searches = _searches(args.shard, figures)
    rows = [[str(shards), f"{1e3 * measured:.1f}", f"{1e3 * model:.1f}"] for shards, measured, model in searches]
    print_table(f"search of shards of {args.shard:,} in one core", ["shards", "ms", "ms by the model"], rows)
    write_json(args.out, {"figures": figures.model_dump(), "estimate": found, "searches": searches})


def _searches(shard: int, figures: Figures) -> list[tuple[int, float, float]]:
    """Return for 1, 2, 4 and 8 shards the seconds of a search, measured, and by the model from the first on."""
    rng = np.random.default_rng(1)
    searches: list[tuple[int, float, float]] = []
    path = tempfile.TemporaryDirectory()
    with path as folder, Engine.create(Path(folder, "e"), index="asmk") as engine:
        engine.add_features((str(i), synthetic_features(rng, _FEATURES, engine)) for i in range(_ENCODED))
        queries = [synthetic_features(rng, _FEATURES, engine) for _ in range(_QUERIES)]
        for shards in (1, 2, 4, 8):
            index = engine.index.repeated(shards * shard // _ENCODED)
            index.save(Path(folder, str(shards)))
            index.search_many(queries, 100)
            measured = float(times(time.process_time, partial(index.search, top_k=100), queries).min())
            first = searches[0][1] if searches else measured
            searches.append((shards, measured, first + figures.search_seconds * (shards - 1) * shard))
    return searches


if __name__ == "__main__":
    main()
