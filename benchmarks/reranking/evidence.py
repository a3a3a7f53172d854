"""Are rankings better once their first hits have fine evidence, and are second rounds better than one?

    python -m benchmarks.reranking.evidence [--models delf-r18 delf-r50] [--profiles default] [--data DIR]
        [--sets holidays_dev ...] [--rounds]

Each photograph of a set is searched for among the others (on `holidays_dev` and Sub-RParis only the queries), the
distractors besides: the candidates of ASMK; the first 100 verified and ordered by inliers, or weighted; and of
these the first 10 or 20 confirmed (`--confirm`). With `--rounds`, too: query expansion by hits that are the same
place by fine evidence, and the graph, with the profile's own ranking score.

mAP by the trapezoidal rule; differences with 95 % intervals over resampled queries. Positives of the landmarks are
pairs that fine evidence has joined (`verification/sameness_sets.py`), which favours it there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import data_folder, options_parser, print_markdown, write_json
from benchmarks.systems import model_system
from benchmarks.verification.evidence import Evidence
from benchmarks.verification.sameness_sets import checked_sets
from benchmarks.verification.searched_sets import Lists, searched_set, whole_rankings
from delf_engine import AsmkIndex, LocalFeatures, Verification
from delf_engine.config import RankingConfig
from delf_engine.engine.pairs import calibration_of
from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, evaluate
from delf_engine.evaluation.bootstrap import paired_bootstrap
from delf_engine.model import read_checkpoint_info
from delf_engine.reranking import (
    ExpansionConfig,
    RankedCandidate,
    RerankOptions,
    expand_query,
    rank_verified,
    rerank_batch,
    rerank_graph,
)
from delf_engine.reranking.confirming import by_evidence, confirm_rankings
from delf_engine.verification.calibration import Calibration

Rankings = dict[str, list[str]]

_SETS = ("holidays_dev", "ukbench_dev", "landmarks held out, all", "paris")
_RULES: dict[str, tuple[Any, float]] = {
    "inliers": ("inliers", 0.0),
    "inliers, blend 0.2": ("inliers", 0.2),
    "weighted, blend 0.3": ("weighted", 0.3),
}


def main() -> None:
    """Print a table for each checkpoint and profile, write JSON."""
    parser = options_parser(__doc__, "out/ranking_by_evidence.json", data=True)
    parser.add_argument("--models", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--profiles", nargs="+", default=[None], help="default: the checkpoint's own")
    parser.add_argument("--calibration", type=Path, help="default: the checkpoint's own")
    parser.add_argument("--sets", nargs="+", choices=_SETS, default=_SETS)
    parser.add_argument("--confirm", nargs="+", type=int, default=[10, 20])
    parser.add_argument("--rounds", action="store_true", help="second rounds, too")
    args = parser.parse_args()
    data, results = data_folder(args.data), []
    for model, profile in itertools.product(args.models, args.profiles):
        system = model_system(model, profile=profile)
        evidence = Evidence(system, data, args.cache)
        info = read_checkpoint_info(model)
        calibration = (
            Calibration.load(args.calibration)
            if args.calibration
            else calibration_of(model, system.profile, info.identity)
        )
        if calibration is None:
            raise DataError(f"{model}, profile {system.profile.name}: no calibration holds for it")
        rows = []
        for name in args.sets:
            searched = _searched(evidence, name)
            rankings = _rankings(evidence, searched, calibration, args.confirm)
            if args.rounds:
                rankings |= _rounds(evidence, searched, calibration)
            rows += _rows(searched, rankings)
        _print(f"{model}, profile {system.profile.name}", rows)
        results.append({"model": model, "profile": system.profile.name, "rows": rows})
    write_json(args.out, {"results": results})


@dataclass(frozen=True)
class _Searched:
    """A set of pictures, who is searched for among whom, and the whole ranking of each query by ASMK."""

    name: str
    truth: GroundTruth
    index: AsmkIndex
    lists: Lists


def _searched(evidence: Evidence, name: str) -> _Searched:
    (pairs,) = checked_sets(evidence, [name])
    searched = searched_set(evidence.data, pairs)
    codebook = evidence.system.codebook
    assert codebook is not None
    return _Searched(name, searched.truth, *whole_rankings(evidence, searched, codebook))


def _rankings(
    evidence: Evidence, searched: _Searched, calibration: Calibration, counts: Iterable[int]
) -> dict[str, Rankings]:
    """Return the rankings of each method; every pair is verified once."""
    profile = evidence.system.profile
    heads = {query: found[: profile.reranking.top_n] for query, found in searched.lists.items()}
    pairs = [(query, image) for query, head in heads.items() for image, _ in head]
    what = f"searched {searched.name}"
    coarse: dict[str, dict[str, Verification]] = {query: {} for query in heads}
    for (query, image), found in zip(pairs, evidence.verified(what, pairs), strict=True):
        coarse[query][image] = found
    out: dict[str, Rankings] = {}
    for rule, (score, blend) in _RULES.items():
        ranking = RankingConfig(score=score, blend=blend, exponent=profile.ranking.exponent)
        ranked = {q: rank_verified(found, coarse[q], ranking=ranking) for q, found in searched.lists.items()}
        out[rule] = _ids(ranked)
        for count in counts:
            first = [(query, hit.id) for query, hits in ranked.items() for hit in hits[:count]]
            detailed = dict(zip(first, evidence.verified(what, first, fine=True), strict=True))
            confirmed = {
                query: [
                    replace(hit, verification=calibration.judged(detailed[query, hit.id])) if i < count else hit
                    for i, hit in enumerate(hits)
                ]
                for query, hits in ranked.items()
            }
            out[f"{rule}, confirm={count}"] = _ids({q: by_evidence(hits) for q, hits in confirmed.items()})
    return out


def _rounds(evidence: Evidence, searched: _Searched, calibration: Calibration) -> dict[str, Rankings]:
    """Return the rankings of one round and of two, as `Engine.search` makes them."""
    options = RerankOptions.of(evidence.system.profile, calibration=calibration, workers=1)
    asked = replace(options, confirm=ExpansionConfig().count)
    names = searched.truth.query_names
    features = evidence.coarse([*names, *searched.truth.names])
    own = {name: features[name] for name in names}

    def verified(queries: Mapping[str, LocalFeatures]) -> dict[str, list[RankedCandidate]]:
        lists: dict[str, list[tuple[str, float]]] = {}
        for name, query in queries.items():
            ids, scores = searched.index.search(query, options.reranking.top_n + 1)
            lists[name] = [pair for pair in zip(ids, scores.tolist(), strict=True) if pair[0] != name]
        return rerank_batch(queries, lists, features, options)

    with evidence._fine_store(sorted({*names, *searched.truth.names})) as fine:

        def confirmed(hits: dict[str, list[RankedCandidate]]) -> dict[str, list[RankedCandidate]]:
            return confirm_rankings(hits, fine.get, fine.get, asked)

        one = verified(own)
        sure = confirmed(one)
        two = verified({name: expand_query(query, sure[name], features) for name, query in own.items()})
        found: dict[str, Mapping[str, Sequence[RankedCandidate]]] = {
            "one round": one,
            "one round, confirmed": sure,
            "expansion": two,
            "expansion, confirmed": confirmed(two),
            "graph": rerank_graph(one, features, options),
            "graph, confirmed": rerank_graph(sure, features, options),
        }
    return {how: _ids(lists) for how, lists in found.items()}


def _ids(lists: Mapping[str, Sequence[RankedCandidate]]) -> Rankings:
    return {query: [hit.id for hit in hits] for query, hits in lists.items()}


def _rows(searched: _Searched, rankings: Mapping[str, Rankings]) -> list[dict[str, Any]]:
    """Return mAP of each method, and its difference from the one that it adds to."""
    ap = {how: evaluate(lists, searched.truth).average_precision for how, lists in rankings.items()}
    rows = []
    for how, precision in ap.items():
        of = _over(how)
        gap = paired_bootstrap(precision, ap[of], samples=2000)
        rows.append(
            {
                "set": searched.name,
                "queries": len(searched.truth),
                "images": len(searched.truth.names),
                "method": how,
                "map": float(np.nanmean(precision)),
                "over": of,
                "difference": gap.to_dict(),
            }
        )
    return rows


def _over(how: str) -> str:
    """Return the method that one adds to: itself if it adds to none."""
    rounds = how.split(", ")[0]
    if rounds in ("expansion", "graph"):
        return how.replace(rounds, "one round", 1)
    return how.split(", confirm")[0]


def _print(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        [
            f"{row['set']}, {row['queries']} queries, {row['images']} images",
            row["method"],
            f"{row['map']:.2f}",
            ""
            if row["over"] == row["method"]
            else "{difference:+.2f} [{low:+.2f}, {high:+.2f}]".format(**row["difference"]),
        ]
        for row in rows
    ]
    print_markdown(title, ["set", "ranked by", "mAP", "difference [95 %]"], cells)


if __name__ == "__main__":
    main()
