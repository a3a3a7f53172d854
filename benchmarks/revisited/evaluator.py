"""What it costs to evaluate long rankings by the revisited protocol, beside the published evaluator's algorithm.

    python -m benchmarks.revisited.evaluator [--queries 70] [--images 1000000] [--rounds 5]

Rankings are random orders of the whole gallery, with half of the labelled images moved among the first thousand;
a query has as many easy, hard and junk images as those of ROxford5k have in the mean.
"Ours" is `evaluate_setups`: Easy, Medium and Hard, mAP and mP@k, every ranking checked for unknown and doubled
images, in one pass. "Plain NumPy" is the published evaluator's algorithm, written from the protocol: a membership
test of each whole ranking for positives and for junk, once a set-up, and no check. Both get one row a query; a
rank matrix of one column a query is measured by itself, with the copy that turns it. The floor is the time to add
up the same bytes as int64. Figures of both are compared on every run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import options_parser, print_table, write_json
from delf_engine.evaluation import SETUPS, GroundTruth, evaluate_setups, rankings_from_ranks

_COUNTS = {"easy": 43, "hard": 36, "junk": 19}
_RANKS = (1, 5, 10)
_EARLY = 1000


def synthetic(queries: int, images: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], GroundTruth]:
    """Return random rankings of a whole gallery, one row a query, and a ground truth."""
    cuts = np.cumsum(list(_COUNTS.values()))
    if images < cuts[-1]:
        raise SystemExit(f"--images must be {cuts[-1]} at least")
    parts = [np.split(rng.choice(images, cuts[-1], replace=False), cuts)[:3] for _ in range(queries)]
    easy, hard, junk = zip(*parts, strict=True)
    names = tuple(f"image{i}" for i in range(images))
    query_names = tuple(f"query{q}" for q in range(queries))
    rankings = np.empty((queries, images), np.int64)
    for row, labelled in zip(rankings, parts, strict=True):
        early = rng.permutation(np.concatenate(labelled))[::2]
        order = rng.permutation(images)
        places = np.sort(rng.choice(min(_EARLY, images), len(early), replace=False))
        row[:] = np.insert(order[~np.isin(order, early)], places - np.arange(len(early)), early)
    return rankings, GroundTruth(names, query_names, np.zeros((queries, 4)), easy, hard, junk)


def plain(rankings: npt.NDArray[Any], truth: GroundTruth) -> dict[str, list[float]]:
    """Return mAP and mP@1, 5, 10 of each set-up by whole-array membership tests, one set-up after the other."""
    out: dict[str, list[float]] = {}
    for setup in SETUPS:
        rows = []
        for order, positives, junk in zip(rankings, truth.positives_of(setup), truth.junk_of(setup), strict=True):
            found = np.flatnonzero(np.isin(order, positives))
            taken_out = np.flatnonzero(np.isin(order, junk))
            found = found - np.searchsorted(taken_out, found)
            hits = np.arange(len(found))
            before = np.where(found > 0, hits / np.maximum(found, 1), 1.0)
            ap = ((before + (hits + 1) / (found + 1)) / 2).sum() / len(positives)
            cuts = [min(found[-1] + 1, k) for k in _RANKS]
            rows.append([ap, *((found < cut).sum() / cut for cut in cuts)])
        out[setup] = [100 * value for value in np.mean(rows, axis=0).tolist()]
    return out


def ours(rankings: npt.NDArray[Any], truth: GroundTruth) -> dict[str, list[float]]:
    """Return the same figures by `evaluate_setups`."""
    figures = evaluate_setups(rankings, truth)
    return {setup: [each.mean_ap, *each.mean_precision.values()] for setup, each in figures.items()}


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a call, after one that warms up."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(rankings: npt.NDArray[np.int64], truth: GroundTruth, rounds: int) -> list[dict[str, Any]]:
    """Return one row for each type of index."""
    rows: list[dict[str, Any]] = []
    for dtype in (np.int32, np.int64):
        given = rankings.astype(dtype)
        expected, found = plain(given, truth), ours(given, truth)
        worst = max(abs(a - b) for s in SETUPS for a, b in zip(expected[s], found[s], strict=True))
        if worst > 1e-10:
            raise SystemExit(f"the evaluators differ by {worst} points of 100")
        ranks = np.ascontiguousarray(given.T)
        words = given.reshape(-1)[: given.size // 2 * 2].view(np.int64)
        rows.append(
            {
                "dtype": np.dtype(dtype).name,
                "bytes": given.nbytes,
                "ours_s": seconds(lambda: ours(given, truth), rounds),  # noqa: B023
                "ours_with_columns_s": seconds(lambda: ours(rankings_from_ranks(ranks), truth), rounds),  # noqa: B023
                "plain_s": seconds(lambda: plain(given, truth), 1),  # noqa: B023
                "floor_s": seconds(words.sum, rounds),
                "largest_difference": worst,
            }
        )
    return [row | {"ratio": row["plain_s"] / row["ours_s"]} for row in rows]


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = options_parser(__doc__, "out/evaluator.json")
    parser.add_argument("--queries", type=int, default=70)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    rankings, truth = synthetic(args.queries, args.images, np.random.default_rng(0))
    rows = measure(rankings, truth, args.rounds)
    table = [
        [
            row["dtype"],
            *(f"{row[name]:.3f}" for name in ("ours_s", "ours_with_columns_s", "plain_s")),
            f"{row['ratio']:.1f}",
            f"{row['floor_s']:.3f} ({row['bytes'] / 1e6:,.0f} MB)",
            f"{row['largest_difference']:.1e}",
        ]
        for row in rows
    ]
    columns = ["indices", "ours s", "from columns s", "plain NumPy s", "plain / ours", "floor s", "difference"]
    title = f"Easy, Medium and Hard together: {args.queries} queries, rankings of {args.images:,} images"
    print_table(title, columns, table)
    result = {"queries": args.queries, "images": args.images, "rounds": args.rounds, "rows": rows}
    write_json(args.out, result)


if __name__ == "__main__":
    main()
