"""The revisited protocol on the photographs of Paris at hand: 11 queries, 238 images (data README).

    python -m benchmarks.revisited.sub_rparis [--model delf-r18 --model mine.safetensors] [--distractors]
        [--data DIR]

For each model: candidates by ASMK only and by KD-tree only; every image, and the first 100 of ASMK, ranked by each
rule: the number of inliers, the weighted sum of similarities, and the similarities alone (no geometry). All rules
are measured on one pass of verification. Features are cached; figures are means over the seeds of RANSAC,
intervals are 95 % over resampled queries.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.common import (
    data_folder,
    options_parser,
    print_table,
    sub_rparis,
    timed,
    write_json,
)
from benchmarks.revisited.ranking_rules import Row, compare, ranked_by_rules, row_of, verify_all
from benchmarks.systems import PEERS, System, model_systems, peer_system, weights_folder
from delf_engine import AsmkIndex, Codebook, KdTreeIndex, LocalFeatures
from delf_engine.evaluation import SETUPS, GroundTruth
from delf_engine.index import CandidateIndex

Features = Mapping[str, LocalFeatures]


def main() -> None:
    """Measure all systems, print a table for each and their differences, write JSON."""
    args = _arguments()
    data = data_folder(args.data)
    truth = sub_rparis(data, distractors=args.distractors)
    systems = [
        *(peer_system(name, args.profile, weights_folder(args, data)) for name in PEERS if name in args.peers),
        *model_systems(args.model, args.profile, args.precision),
    ]
    measured: dict[str, dict[str, Row]] = {}
    for system in systems:
        measured[system.name] = _rows(system, truth, data, args)
        _print_rows(f"{system.name}: {len(truth)} queries, {len(truth.names)} images", measured[system.name])
    differences = _differences(measured)
    _print_differences(differences)
    result = {
        "queries": len(truth),
        "images": len(truth.names),
        "seeds": args.seeds,
        "systems": {
            system.name: {
                "identity": system.identity,
                "ranking": system.profile.ranking.model_dump(),
                "verification": system.profile.verification.model_dump(),
                "rows": measured[system.name],
            }
            for system in systems
        },
        "differences": differences,
    }
    write_json(args.out, result)


def _rows(system: System, truth: GroundTruth, data: Path, args: argparse.Namespace) -> dict[str, Row]:
    """Return the rows of one system by "method" or "method, by rule"."""
    queries, gallery = system.ranked(truth, data, args.cache)
    profile = system.profile
    rows: dict[str, Row] = {}
    first: dict[str, list[tuple[str, float]]] | None = None
    if system.codebook is not None:
        codebook = Codebook.load(system.codebook)
        for name, index in (
            ("ASMK", AsmkIndex(codebook, profile.asmk)),
            ("KD-tree", KdTreeIndex(codebook.dim, profile.kdtree)),
        ):
            lists, seconds = searched(index, queries, gallery)
            rows[f"{name} only"] = row_of(truth, [unranked(lists)], seconds)
            first = lists if first is None else first
    done = verify_all(
        queries,
        gallery,
        verification=profile.verification,
        ranking=profile.ranking,
        seeds=args.seeds,
        title=system.name,
    )
    every = ranked_by_rules(first or done.first_scores(), done, truth)
    rows |= {f"every image, by {score}": row for score, row in every.items()}
    if first is not None:
        top_n = profile.reranking.top_n
        some = ranked_by_rules(first, done, truth, top_n=top_n)
        searching = rows["ASMK only"]["seconds_per_query"]
        for score, row in some.items():
            row["seconds_per_query"] += searching
            rows[f"ASMK, first {top_n} by {score}"] = row
    return rows


def searched(
    index: CandidateIndex, queries: Features, gallery: Features
) -> tuple[dict[str, list[tuple[str, float]]], float]:
    """Add the gallery to an index; return the full ranking of each query, and the seconds a query."""
    index.add(list(gallery), list(gallery.values()))
    index.search(next(iter(queries.values())), 1)  # compiles, builds
    seconds, lists = timed(lambda: whole_rankings(index, queries))
    return lists, seconds / len(queries)


def whole_rankings(index: CandidateIndex, queries: Features) -> dict[str, list[tuple[str, float]]]:
    """Return the ids and scores of all images of an index for each query, best first."""
    lists = {}
    for query, features in queries.items():
        ids, scores = index.search(features, len(index))
        lists[query] = list(zip(ids, scores.tolist(), strict=True))
    return lists


def unranked(lists: Mapping[str, Sequence[tuple[str, float]]]) -> Callable[[str, set[str]], list[str]]:
    """Return what ranks as the index does."""
    return lambda query, junk: [image_id for image_id, _ in lists[query] if image_id not in junk]


def _differences(measured: Mapping[str, Mapping[str, Row]]) -> list[dict[str, Any]]:
    """Compare the rules of each system, and the systems by their rows of one name, over the same queries."""
    pairs = [
        (system, f"every image, by {first}", system, f"every image, by {second}")
        for system in measured
        for first, second in (("weighted", "inliers"), ("weighted", "similarity"))
    ]
    for one, other in combinations(measured, 2):
        pairs += [(other, name, one, name) for name in measured[one] if name in measured[other]]
    return [
        {
            "first": [a, row_a],
            "second": [b, row_b],
            **{s: c.to_dict() for s, c in compare(measured[a][row_a], measured[b][row_b]).items()},
        }
        for a, row_a, b, row_b in pairs
    ]


def _print_rows(title: str, rows: Mapping[str, Row]) -> None:
    columns = ["method", *(f"{s.capitalize()} [95 %]" for s in SETUPS), "spread over seeds", "ms a query"]
    table = [
        [
            name,
            *(with_interval(row[s]["mean_ap"], *row[s]["interval_95"]) for s in SETUPS),
            " / ".join(f"{row[s]['spread']:.1f}" for s in SETUPS) if row["seeds"] > 1 else "",
            # The similarities need no geometry, and the pass that gave them was not without.
            "" if name.endswith("by similarity") else f"{1000 * row['seconds_per_query']:.0f}",
        ]
        for name, row in rows.items()
    ]
    print_table(title, columns, table)


def _print_differences(differences: Sequence[Mapping[str, Any]]) -> None:
    table = []
    for entry in differences:
        (a, row_a), (b, row_b) = entry["first"], entry["second"]
        what = f"{a}: {row_a} - {row_b}" if a == b else f"{a} - {b}: {row_a}"
        cells = [
            with_interval(*(entry[s][key] for key in ("difference", "low", "high")), sign="+") for s in SETUPS
        ]
        table.append([what, *cells])
    columns = ["difference, paired over queries", *(f"{s.capitalize()} [95 %]" for s in SETUPS)]
    print_table("Differences of mAP", columns, table)


def with_interval(value: float, low: float, high: float, *, sign: str = "") -> str:
    """Return a figure and its interval as text."""
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _arguments() -> argparse.Namespace:
    parser = options_parser(__doc__, "out/sub_rparis.json", data=True)
    parser.add_argument(
        "--model", action="append", help="name or path of a checkpoint; may be given several times (delf-r18)"
    )
    parser.add_argument("--profile", help="name or path; without it, each checkpoint's own")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], help="without it, as the profile says")
    parser.add_argument("--distractors", action="store_true", help="add the unrelated photographs to the gallery")
    parser.add_argument("--seeds", type=int, default=3, help="of RANSAC")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["rootsift"], help="none: only our models")
    parser.add_argument("--weights", help="folder of aliked-n16.safetensors; without it, weights/ beside the data")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be at least 1")
    args.model = list(dict.fromkeys(args.model or ["delf-r18"]))
    return args


if __name__ == "__main__":
    main()
