"""Which features rank best? Every development set, every ranking score, checkpoints and peers in one run.

    python -m benchmarks.revisited.quality --models delf-r18 delf-r50 FILE.safetensors [--peers rootsift aliked]
        [--sets holidays_dev ukbench_dev] [--against delf-r18] [--all] [--data DIR] [--cache DIR]

mAP by the revisited protocol, of the whole ranking by ASMK (candidates), and of its first `--top` images ranked by
each score, the others behind them; without a codebook every image is verified. Distractors are in all galleries
but one of Sub-RParis (256), whose lists are the official ones; pictures of the other sets are searched for among
each other. Differences from `--against` have 95 % intervals over resampled queries.

Besides: how many of the labelled pairs of one place coarse evidence accepts at one false acceptance in 10,000; of
landmarks also of those pairs alone that fine evidence joins directly.

What shows one place is settled by one checkpoint (`--labels`) for all systems, where geometry settles it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.revisited.ranking_rules import RULES, rule_of
from benchmarks.systems import PEERS, System, model_system, model_systems, peer_system, weights_folder
from benchmarks.verification.acceptance import Scored, accepted
from benchmarks.verification.evidence import Evidence
from benchmarks.verification.sameness_sets import PairSet, checked_sets
from benchmarks.verification.searched_sets import Lists, SearchedSet, searched_set, whole_rankings
from delf_engine import Verification
from delf_engine.config import RankingConfig
from delf_engine.evaluation import SETUPS, evaluate_setups
from delf_engine.evaluation.bootstrap import paired_bootstrap
from delf_engine.reranking import rank_verified

__all__ = ["compared", "main", "measured", "measuring_options", "searched_sets", "tables"]

Row = dict[str, Any]

_SETS = ("holidays_dev", "ukbench_dev", "landmarks choose, all", "landmarks held out, all", "paris")
_INDIRECT = ", all"  # with pairs that only a third picture joins
_SCORES = ("candidates", "similarity", "inliers", "weighted", "own")
_EVIDENCE = ("inliers", "inlier_similarity")
_RATE = 1e-4


def main() -> None:
    """Measure one system after the other; after each, print all tables so far and write JSON."""
    args = _arguments()
    data = data_folder(args.data)
    labels = Evidence(model_system(args.labels), data, args.cache)
    direct = [name.removesuffix(_INDIRECT) for name in args.sets if name.endswith(_INDIRECT)]
    sets = {pairs.name: pairs for pairs in checked_sets(labels, [*args.sets, *direct])}
    searched = searched_sets(data, [sets[name] for name in args.sets])
    results: list[Row] = []
    for system in _systems(args):
        evidence = Evidence(system, data, args.cache)
        rows: list[Row] = []
        for each in searched:
            rows += measured(evidence, each, args.top)
        shares = {name: _accepted(evidence, pairs) for name, pairs in sets.items()}
        own = system.profile.ranking.model_dump()
        results.append({"system": system.name, "identity": system.identity, "own": own} | compared(rows, results))
        results[-1]["accepted"] = shares
        for title, columns, cells in [*tables(results), _accepted_table(results)]:
            print_markdown(title, columns, cells)
        write_json(args.out, {"labels": labels.system.identity, "results": results})


def searched_sets(data: Path, sets: Iterable[PairSet]) -> list[SearchedSet]:
    """Return sets with all distractors, and behind ``paris`` its 256 photographs without."""
    found = []
    for pairs in sets:
        found.append(searched_set(data, pairs))
        if pairs.name == "paris":
            found.append(replace(searched_set(data, pairs, distractors=False), name="paris (256)"))
    return found


def measured(evidence: Evidence, searched: SearchedSet, top: int | None) -> list[Row]:
    """Return one row for each set-up of a set, with the average precision of each query by each score.

    Parameters
    ----------
    evidence : Evidence
    searched : SearchedSet
    top : int or None
        Images of each ranking that are verified; None, or a system without a codebook: all.
    """
    truth, system = searched.truth, evidence.system
    evidence.pictures.update(searched.pictures)
    lists: Lists = {q: [(name, 0.0) for name in truth.names if name != q] for q in truth.query_names}
    rankings: dict[str, Mapping[str, list[str]]] = {}
    if system.codebook is None:
        top = None
    else:
        _, lists = whole_rankings(evidence, searched, system.codebook)
        rankings["candidates"] = {query: [name for name, _ in found] for query, found in lists.items()}
    pairs = [(query, name) for query, found in lists.items() for name, _ in found[:top]]
    verified: dict[str, dict[str, Verification]] = {query: {} for query in lists}
    what = f"searched {searched.name.removesuffix(' (256)')}"
    for (query, name), found in zip(pairs, evidence.verified(what, pairs), strict=True):
        verified[query][name] = found
    if system.codebook is None:  # as good a first order as there is
        lists = {
            query: sorted(((name, float(v.putative)) for name, v in found.items()), key=lambda pair: -pair[1])
            for query, found in verified.items()
        }
    own = system.profile.ranking
    scores: dict[str, RankingConfig] = {rule: rule_of(own, rule) for rule in RULES}
    for score, ranking in {**scores, "own": own}.items():
        rankings[score] = {
            query: [hit.id for hit in rank_verified(found, verified[query], ranking=ranking, query=query)]
            for query, found in lists.items()
        }
    figures = {score: evaluate_setups(ranked, truth) for score, ranked in rankings.items()}
    graded = any(len(hard) for hard in truth.hard)
    return [
        {
            "set": f"{searched.name}, {setup}" if graded else searched.name,
            "queries": len(truth),
            "images": len(truth.names),
            "verified": "all" if top is None else top,
            "average_precision": {
                score: [None if np.isnan(ap) else ap for ap in found[setup].average_precision.tolist()]
                for score, found in figures.items()
            },
        }
        for setup in (SETUPS if graded else ("medium",))
    ]


def compared(rows: Sequence[Row], results: Sequence[Row]) -> Row:
    """Return rows with mAP by score, and its difference from that of the first of the earlier results."""
    first = {row["set"]: row["average_precision"] for row in results[0]["rows"]} if results else {}
    for row in rows:
        figures = {score: np.array(ap, float) for score, ap in row["average_precision"].items()}
        row["map"] = {score: float(np.nanmean(ap)) for score, ap in figures.items()}
        row["difference"] = {
            score: paired_bootstrap(ap, np.array(first[row["set"]][score], float), samples=2000).to_dict()
            for score, ap in figures.items()
            if score in first.get(row["set"], ())
        }
    return {"rows": list(rows)}


def tables(results: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, columns and cells of a table for each set."""
    found = []
    for i, row in enumerate(results[0]["rows"]):
        title = f"{row['set']}: mAP of {row['queries']} queries, {row['images']} images"
        cells = [
            [r["system"], str(r["rows"][i]["verified"]), *(_cell(r["rows"][i], s) for s in _SCORES)]
            for r in results
        ]
        found.append((title, ["system", "verified", *_SCORES], cells))
    return found


def _accepted_table(results: Sequence[Row]) -> tuple[str, list[str], list[list[str]]]:
    title = "Pairs of one place accepted at one false acceptance in 10,000, %: by inliers / by their similarities"
    names = list(results[0]["accepted"])
    shares = [[" / ".join(f"{r['accepted'][n][e]:.1f}" for e in _EVIDENCE) for n in names] for r in results]
    cells = [[r["system"], *row] for r, row in zip(results, shares, strict=True)]
    return title, ["system", *names], cells


def _cell(row: Row, score: str) -> str:
    if score not in row["map"]:
        return ""
    gap = row["difference"].get(score)
    of_seeds = row.get("of_seeds", {}).get(score, ())
    text = f"{row['map'][score]:.2f}" + (f" ± {np.std(of_seeds, ddof=1):.2f}" if len(of_seeds) > 1 else "")
    return text if gap is None else text + " ({difference:+.2f} [{low:+.2f}, {high:+.2f}])".format(**gap)


def _accepted(evidence: Evidence, pairs: PairSet) -> dict[str, float]:
    """Return the share of pairs of one place, in per cent, by each kind of coarse evidence."""
    evidence.pictures.update(pairs.pictures)
    found = evidence.verified(pairs.name.split(",")[0], pairs.pairs)
    weights = np.full(len(found), pairs.weight)
    scores = {name: np.array([getattr(v, name) for v in found], float) for name in _EVIDENCE}
    return {
        name: 100 * accepted(Scored(values, pairs.labels, weights, pairs.places), _RATE)
        for name, values in scores.items()
    }


def _systems(args: argparse.Namespace) -> list[System]:
    """Return all systems, the one that the others are compared with first."""
    weights = weights_folder(args, data_folder(args.data))
    peers = [peer_system(name, None, weights) for name in args.peers]
    named = dict(zip([*args.models, *args.peers], [*model_systems(args.models, None, None), *peers], strict=True))
    first = named.pop(args.against)
    return [first, *named.values()]


def _arguments() -> argparse.Namespace:
    parser = options_parser(__doc__, "out/quality.json", data=True)
    parser.add_argument("--models", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--weights", help="folder of aliked-n16.safetensors; without it, weights/ beside the data")
    parser.add_argument("--against", help="the model or peer to compare with; default: the first model")
    measuring_options(parser)
    args = parser.parse_args()
    args.models, args.peers = list(dict.fromkeys(args.models)), list(dict.fromkeys(args.peers))
    args.against = args.against or args.models[0]
    if args.against not in [*args.models, *args.peers]:
        parser.error(f"--against {args.against}: none of --models and --peers")
    return args


def measuring_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on which sets, with whose labels, and how many images are verified (or None)."""
    parser.add_argument("--sets", nargs="+", choices=_SETS, default=_SETS)
    parser.add_argument("--labels", default="delf-r18", help="checkpoint that settles what shows one place")
    verified = parser.add_mutually_exclusive_group()
    verified.add_argument("--top", type=_count, default=100, help="images of each ranking that are verified")
    verified.add_argument("--all", action="store_const", const=None, dest="top", help="verify every image")


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    main()
