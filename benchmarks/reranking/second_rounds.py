"""What a second round adds to re-ranking, on the photographs of Paris at hand: query expansion and the graph.

    python -m benchmarks.reranking.second_rounds [--model delf-r18] [--distractors] [--seeds 3] [--data DIR]

The first 100 candidates of ASMK are verified and ranked by inliers; for comparison also the first 200, as
many verifications as the expansion makes in both rounds. Then, with the defaults of
`delf_engine/reranking` (`ExpansionConfig`, `GraphConfig`), which were written down before this was first run:

* expansion: the same shortlist verified with the expanded query; and ASMK searched again with it, the first 100
  verified with it;
* graph: the verified 100 ranked again by the widest paths;
* both: the graph after the second search.

Every system runs once a seed on the whole gallery; images that a set-up of the revisited protocol leaves out are
taken from the finished rankings, unlike in `revisited/sub_rparis.py`, which takes them from the shortlists.
Intervals are 95 % over resampled queries. The time of a row is that of its own round, without the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.common import data_folder, options_parser, print_table, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import Ranker, Row, compare, row_of
from benchmarks.revisited.sub_rparis import whole_rankings, with_interval
from benchmarks.systems import model_system
from delf_engine import AsmkIndex, Codebook, LocalFeatures
from delf_engine.config import Profile, RerankingConfig
from delf_engine.evaluation import SETUPS
from delf_engine.reranking import (
    ExpansionConfig,
    GraphConfig,
    RankedCandidate,
    RerankOptions,
    expand_query,
    rerank_batch,
    rerank_graph,
)

Features = Mapping[str, LocalFeatures]
Rankings = dict[str, list[RankedCandidate]]

_FIRST = "inliers alone"


def main() -> None:
    """Measure all rounds, print the table and the differences, write JSON."""
    args = _arguments()
    data = data_folder(args.data)
    truth = sub_rparis(data, distractors=args.distractors)
    system = model_system(args.model)
    queries, gallery = system.ranked(truth, data, args.cache)
    boxes = dict(zip(truth.query_names, truth.boxes.tolist(), strict=True))
    profile = system.profile
    assert system.codebook is not None
    index = AsmkIndex(Codebook.load(system.codebook), profile.asmk)
    index.add(list(gallery), list(gallery.values()))
    index.search(next(iter(queries.values())), 1)  # compiles, builds
    profile = profile.model_copy(update={"ranking": profile.ranking.model_copy(update={"score": "inliers"})})
    found: dict[str, list[Rankings]] = {}
    seconds: dict[str, float] = {}
    for seed in range(args.seeds):
        for name, (rankings, spent) in _rounds(queries, gallery, boxes, index, profile, seed).items():
            found.setdefault(name, []).append(rankings)
            seconds[name] = seconds.get(name, 0.0) + spent / (args.seeds * len(queries))
    rows = {name: row_of(truth, [_ranker(r) for r in runs], seconds[name]) for name, runs in found.items()}
    _print(f"{args.model}: {len(truth)} queries, {len(truth.names)} images", rows)
    result = {
        "queries": len(truth),
        "images": len(truth.names),
        "seeds": args.seeds,
        "identity": system.identity,
        "verification": profile.verification.model_dump(),
        "expansion": ExpansionConfig().model_dump(),
        "graph": GraphConfig().model_dump(),
        "rows": rows,
    }
    write_json(args.out, result)


def _rounds(
    queries: Features,
    gallery: Features,
    boxes: Mapping[str, Sequence[float]],
    index: AsmkIndex,
    profile: Profile,
    seed: int,
) -> dict[str, tuple[Rankings, float]]:
    """Return the rankings of each method with the seconds that all queries took, the first round in none."""
    options = RerankOptions.of(profile, seed=seed, workers=1)

    def verified(
        given: Features,
        lists: Mapping[str, Sequence[tuple[str, float]]],
        config: RerankingConfig = profile.reranking,
    ) -> Rankings:
        return rerank_batch(given, lists, gallery, replace(options, reranking=config))

    def widest(rankings: Rankings) -> Rankings:
        again = rerank_graph(rankings, gallery, options)
        return {query: list(ranking) for query, ranking in again.items()}

    lists = whole_rankings(index, queries)
    first, first_seconds = _timed(lambda: verified(queries, lists))
    twice = RerankingConfig(top_n=2 * profile.reranking.top_n)
    longer, longer_seconds = _timed(lambda: verified(queries, lists, twice))
    expanded, expanding = _timed(
        lambda: {
            query: expand_query(features, first[query], gallery, box=boxes[query])
            for query, features in queries.items()
        }
    )
    same, same_seconds = _timed(lambda: verified(expanded, lists))
    again, again_seconds = _timed(lambda: verified(expanded, whole_rankings(index, expanded)))
    graph, graph_seconds = _timed(lambda: widest(first))
    both, both_seconds = _timed(lambda: widest(again))
    return {
        _FIRST: (first, first_seconds),
        f"inliers, first {twice.top_n}": (longer, longer_seconds),
        "+ expansion, same list": (same, expanding + same_seconds),
        "+ expansion, new search": (again, expanding + again_seconds),
        "+ graph": (graph, graph_seconds),
        "+ both": (both, expanding + again_seconds + both_seconds),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    out = work()
    return out, time.perf_counter() - start


def _ranker(rankings: Rankings) -> Ranker:
    return lambda query, junk: [hit.id for hit in rankings[query] if hit.id not in junk]


def _print(title: str, rows: Mapping[str, Row]) -> None:
    columns = ["method", *(f"{s.capitalize()} [95 %]" for s in SETUPS), "spread over seeds", "ms a query"]
    table = [
        [
            name,
            *(with_interval(row[s]["mean_ap"], *row[s]["interval_95"]) for s in SETUPS),
            " / ".join(f"{row[s]['spread']:.1f}" for s in SETUPS),
            f"{1000 * row['seconds_per_query']:.0f}",
        ]
        for name, row in rows.items()
    ]
    print_table(title, columns, table)
    gaps = []
    for name, row in rows.items():
        if name != _FIRST:
            by_setup = compare(row, rows[_FIRST])
            cells = [(by_setup[s].difference, by_setup[s].low, by_setup[s].high) for s in SETUPS]
            gaps.append([name, *(with_interval(*cell, sign="+") for cell in cells)])
    columns = ["gain over inliers alone, paired over queries", *(f"{s.capitalize()} [95 %]" for s in SETUPS)]
    print_table("Differences of mAP", columns, gaps)


def _arguments() -> argparse.Namespace:
    parser = options_parser(__doc__, "out/second_rounds.json", data=True, model=True)
    parser.add_argument("--distractors", action="store_true", help="add the unrelated photographs to the gallery")
    parser.add_argument("--seeds", type=int, default=3, help="of RANSAC")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    return args


if __name__ == "__main__":
    main()
