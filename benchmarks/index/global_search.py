"""Global descriptors as shortlists: every pooling, whitened, expanded, fused with ASMK, verified; and its cost.

    python -m benchmarks.index.global_search --pairs PAIRS.jsonl [--models delf-r18 delf-r50] [--dim 256]
        [--top 100] [--labels CHECKPOINT] [--data DIR] [--cache DIR]

mAP in % by the revisited protocol on every development set: of the whole ranking, and of its first `--top` images
verified, the others behind them; and which share of the true images is among the first 100. Whitenings, words and
parts come from `photos/` and the photographs of `--pairs` (`delf-engine mine`, of the landmarks that are for
fitting). Pooling, levels, whitening and weights of fusing were chosen on these very sets: development sets.

The last table is of the model's own global head, in one run: extraction with and without it, and exact search of a
million vectors beside bare faiss.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import data_folder, options_parser, print_markdown, timed, write_json
from benchmarks.index.pooled import LEVELS, Pooled, Vectors
from benchmarks.systems import model_system
from benchmarks.verification.evidence import Evidence, Picture
from benchmarks.verification.sameness_sets import checked_sets
from benchmarks.verification.searched_sets import Lists, SearchedSet, searched_set, whole_rankings
from delf_engine import Extractor
from delf_engine.errors import CheckpointError
from delf_engine.evaluation import evaluate_setups
from delf_engine.images import find_images
from delf_engine.index.fusion import fuse_ranks, fuse_scores
from delf_engine.index.vectors import products
from delf_engine.model import codebook_path
from delf_engine.reranking import rank_verified
from delf_engine.training.sources.mined import read_pairs
from delf_engine.vectors import (
    DiffusionGraph,
    ReciprocalGraph,
    Whitening,
    augment_database,
    expand_queries,
    learned_whitening,
    pca_whitening,
)

__all__ = ["main"]

_SETS = ("holidays_dev", "ukbench_dev", "landmarks choose, all", "landmarks held out, all", "paris")
_ALONE = ("paris", "holidays_dev")  # shown without distractors, too
_FIRST = 100  # of a ranking, whose recall is printed
_PAIRS = 1500
_TURNS = 5  # of which the least time counts
_ROWS, _DIM, _QUERIES = 1_000_000, 512, 20  # of the search that faiss is compared with

Rankings = Mapping[str, Sequence[str]]
Whiten = Callable[[Vectors], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Fitted:
    """Photographs that whitenings are fitted to, and which of them show one place."""

    pictures: Mapping[str, Picture]
    pairs: npt.NDArray[np.int64]  # (P, 2) rows

    @classmethod
    def of(cls, data: Path, pairs: Path) -> Fitted:
        same = read_pairs(pairs)[0]
        random.Random(0).shuffle(same)
        chosen = [(_picture(data, pair.a), _picture(data, pair.b)) for pair in same[:_PAIRS]]
        photos = [_picture(data, path) for path in find_images([data / "photos"])[::2]]
        pictures = {p.id: p for p in [*photos, *(one for both in chosen for one in both)]}
        row = {name: number for number, name in enumerate(pictures)}
        return cls(pictures, np.array([(row[a.id], row[b.id]) for a, b in chosen]))


def main() -> None:
    """Measure one model after the other, writing JSON after each; then print all tables."""
    args = _arguments()
    data = data_folder(args.data)
    labels = Evidence(model_system(args.labels), data, args.cache)
    sets = _searched(data, labels)
    fitted = Fitted.of(data, args.pairs)
    results = []
    for model in args.models:
        extractor = Extractor.from_pretrained(model)
        pooled = Pooled(extractor, data, args.cache, list(fitted.pictures.values()))
        known = {name: picture for each in sets for name, picture in each.pictures.items()}
        found, own = pooled.vectors(known), pooled.vectors(fitted.pictures)
        names = list(known)
        rows = []
        for method in found:
            fit = own.get(method, own[method.split(",")[0]])
            for what, whiten in _whitenings(fit, fitted.pairs, args.dim).items():
                vectors = dict(zip(names, whiten(found[method]), strict=True))
                rows.append({"ranking": f"{method}: {what}", **_measured(sets, partial(_by_vectors, vectors))})
        head = extractor.global_head
        if head is None:
            raise CheckpointError(f"{model}: no global head beside it; fit one (delf-engine model fit-global)")
        levels = next(name for name, number in LEVELS.items() if number == head.levels)
        white = Whitening(head.mean.astype(float), head.matrix.astype(float))(found[f"{head.pooling} {levels}"])
        own_vectors = dict(zip(names, white, strict=True))
        more = _more(own_vectors, sets, Evidence(model_system(model), data, args.cache), args.top)
        results.append({"model": model, "poolings": rows, "head": head.identity, "rankings": more})
        results[-1]["cost"] = _cost(extractor, data)
        write_json(args.out, {"labels": labels.system.identity, "results": results})
    result = {"labels": labels.system.identity, "results": results, "search": _search_time()}
    _print_all(result)
    write_json(args.out, result)


def _print_all(result: Mapping[str, Any]) -> None:
    costs: dict[str, float] = {}
    for one in result["results"]:
        _print_poolings(one["model"], one["poolings"])
        _print(f"{one['model']}: by its global head, {one['head'].partition('@')[0]}, and beyond", one["rankings"])
        costs |= one["cost"]
    cells = [[name, f"{value:.3f}"] for name, value in (costs | result["search"]).items()]
    print_markdown("Cost", ["what", "value"], cells)


def _picture(data: Path, path: str) -> Picture:
    return Picture(Path(path).relative_to(data).as_posix())


def _searched(data: Path, labels: Evidence) -> list[SearchedSet]:
    found = []
    for pairs in checked_sets(labels, _SETS):
        if pairs.name in _ALONE:
            name = f"{pairs.name} alone"
            found.append(replace(searched_set(data, pairs, distractors=False), name=name))
        found.append(searched_set(data, pairs))
    return found


def _whitenings(fit: Vectors, pairs: npt.NDArray[np.int64], dim: int) -> dict[str, Whiten]:
    """Return ways to whiten, by name; long vectors are projected to twice as many dimensions before one learns."""
    dim = min(dim, fit.shape[1], len(fit) - 1)
    pca = pca_whitening(fit, min(2 * dim, fit.shape[1], len(fit) - 1), power=0)
    learned = learned_whitening(pca(fit), pairs, dim)
    return {
        "plain": lambda vectors: vectors,
        "PCA": pca_whitening(fit, dim),
        "PCA, half": pca_whitening(fit, dim, power=0.5),
        "learned": lambda vectors: learned(pca(vectors)),
    }


def _by_vectors(vectors: Mapping[str, Vectors], searched: SearchedSet) -> Rankings:
    gallery = np.stack([vectors[name] for name in searched.truth.names])
    return {
        query: _named(searched, query, np.argsort(-(gallery @ vectors[query]), kind="stable"))
        for query in searched.truth.query_names
    }


def _named(searched: SearchedSet, query: str, order: npt.NDArray[np.integer]) -> list[str]:
    """Return images in an order, the query itself left out, as in all rankings here."""
    return [searched.truth.names[i] for i in order if i >= 0 and searched.truth.names[i] != query]


def _more(
    vectors: Mapping[str, Vectors], sets: Sequence[SearchedSet], evidence: Evidence, top: int
) -> list[dict[str, Any]]:
    """Return rows of what is done with global vectors, of ASMK, of both, and of all three verified."""

    def arrays(searched: SearchedSet) -> tuple[Vectors, Vectors]:
        queries, gallery = ([vectors[name] for name in names] for names in (truth_names(searched)))
        return np.stack(queries), np.stack(gallery)

    def truth_names(searched: SearchedSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return searched.truth.query_names, searched.truth.names

    def ordered(searched: SearchedSet, orders: npt.NDArray[np.integer]) -> Rankings:
        return {q: _named(searched, q, o) for q, o in zip(searched.truth.query_names, orders, strict=True)}

    def by(change: Callable[[Vectors, Vectors], tuple[Vectors, Vectors]]) -> Callable[[SearchedSet], Rankings]:
        def ranked(searched: SearchedSet) -> Rankings:
            queries, gallery = change(*arrays(searched))
            return ordered(searched, np.argsort(-(queries @ gallery.T), axis=1, kind="stable"))

        return ranked

    def reciprocal(searched: SearchedSet) -> Rankings:
        queries, gallery = arrays(searched)
        first = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")
        return ordered(searched, ReciprocalGraph(gallery).rerank(queries, first)[1])

    def diffusion(searched: SearchedSet) -> Rankings:
        queries, gallery = arrays(searched)
        return ordered(searched, DiffusionGraph(gallery).search(queries, len(gallery))[1])

    codebook = codebook_path(evidence.system.name)
    assert codebook is not None
    known: dict[str, Rankings] = {}
    scored: dict[str, Lists] = {}

    def asmk(searched: SearchedSet) -> Rankings:
        if searched.name not in known:
            lists = scored[searched.name] = whole_rankings(evidence, searched, codebook)[1]
            known[searched.name] = {query: [name for name, _ in found] for query, found in lists.items()}
        return known[searched.name]

    def by_ranks(searched: SearchedSet) -> Rankings:
        ways, nothing = (asmk(searched), _by_vectors(vectors, searched)), np.empty(0, np.float32)
        every = len(searched.truth.names)
        return {q: fuse_ranks([(list(way[q]), nothing) for way in ways], every)[0] for q in ways[0]}

    def fused(searched: SearchedSet) -> Rankings:
        asmk(searched)
        lists, (queries, gallery) = scored[searched.name], arrays(searched)
        out = {}
        for query, vector in zip(searched.truth.query_names, queries, strict=True):
            scores = dict(lists[query])
            alive = np.array([name != query for name in searched.truth.names])
            local = np.array([scores.get(name, 0.0) for name in searched.truth.names], np.float32)
            both = fuse_scores(local, (gallery @ vector).astype(np.float32), alive)
            out[query] = _named(searched, query, np.argsort(-both, kind="stable"))
        return out

    def verified(ranked: Callable[[SearchedSet], Rankings], searched: SearchedSet) -> Rankings:
        lists = ranked(searched)
        pairs = [(query, name) for query, names in lists.items() for name in names[:top]]
        what = f"searched {searched.name.removesuffix(' alone')}"
        found = dict(zip(pairs, evidence.verified(what, pairs), strict=True))
        out = {}
        for query, names in lists.items():
            own = {name: found[query, name] for name in names[:top]}
            entries = [(name, -float(place)) for place, name in enumerate(names)]
            hits = rank_verified(entries, own, ranking=evidence.system.profile.ranking, query=query)
            out[query] = [hit.id for hit in hits]
        return out

    by_vectors = partial(_by_vectors, vectors)
    ways: dict[str, Callable[[SearchedSet], Rankings]] = {
        "global": by_vectors,
        "average expansion": by(lambda q, g: (expand_queries(q, g, top=5, alpha=0), g)),
        "alpha expansion": by(lambda q, g: (expand_queries(q, g, top=5), g)),
        "database augmented": by(lambda q, g: (q, augment_database(g, top=5))),
        "k-reciprocal": reciprocal,
        "diffusion": diffusion,
        "ASMK": asmk,
        "fused by ranks": by_ranks,
        "fused by scores": fused,
        "global, verified": partial(verified, by_vectors),
        "ASMK, verified": partial(verified, asmk),
        "fused, verified": partial(verified, fused),
    }
    for searched in sets:
        evidence.pictures.update(searched.pictures)
    return [{"ranking": name, **_measured(sets, way)} for name, way in ways.items()]


def _measured(sets: Sequence[SearchedSet], ranked: Callable[[SearchedSet], Rankings]) -> dict[str, Any]:
    """Return mAP and recall by set, and the mean of mAP over sets with distractors."""
    maps, recalls = {}, {}
    for searched in sets:
        rankings, truth = ranked(searched), searched.truth
        figures = evaluate_setups({query: list(names) for query, names in rankings.items()}, truth)
        graded = any(len(hard) for hard in truth.hard)
        for setup in ("medium", "hard") if graded else ("medium",):
            name = f"{searched.name}, {setup}" if graded else searched.name
            maps[name] = float(np.nanmean(figures[setup].average_precision))
        shares = []
        for q, query in enumerate(truth.query_names):
            right = {truth.names[i] for i in (*truth.easy[q], *truth.hard[q])} - {query}
            shares.append(len(right & set(islice(rankings[query], _FIRST))) / max(1, len(right)))
        recalls[searched.name] = 100 * float(np.mean(shares))
    return {
        "map": maps,
        "recall": recalls,
        "mean": float(np.mean([v for name, v in maps.items() if "alone" not in name])),
    }


def _print_poolings(model: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each pooling: the mean over sets by whitening, and every set by the best of them."""
    of: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        method, what = row["ranking"].rsplit(": ", 1)
        of.setdefault(method, {})[what] = row
    names, ways = list(rows[0]["map"]), list(next(iter(of.values())))
    cells = []
    for method, found in of.items():
        best = max(found.values(), key=lambda row: row["mean"])
        means = [f"{found[way]['mean']:.1f}" for way in ways]
        cells.append([method, *means, *(f"{best['map'][name]:.1f}" for name in names)])
    title = f"{model}: pooling and levels; means over sets by whitening, then sets by the best of these; mAP, %"
    print_markdown(title, ["pooling", *ways, *names], cells)


def _print(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(rows[0]["map"])
    cells = [[r["ranking"], f"{r['mean']:.1f}", *(f"{r['map'][n]:.1f}" for n in names)] for r in rows]
    print_markdown(f"{title}: mAP, %", ["ranking", "mean", *names], cells)
    names = list(rows[0]["recall"])
    cells = [[r["ranking"], *(f"{r['recall'][n]:.1f}" for n in names)] for r in rows]
    print_markdown(f"{title}: true images among the first {_FIRST}, %", ["ranking", *names], cells)


def _cost(extractor: Extractor, data: Path) -> dict[str, float]:
    """Return milliseconds a photograph with the model's global head and without: in turns, the least of each."""
    photos = find_images([data / "paris"])[:20]
    head = extractor.global_head
    if head is None:
        return {}
    times = {"with": 0.0, "without": 0.0}
    for path in photos:
        found: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(_TURNS):
            for way, used in (("with", head), ("without", None)):
                extractor.global_head = used
                found[way].append(timed(partial(extractor, path))[0])
        for way, seconds in found.items():
            times[way] += min(seconds) / len(photos)
    extractor.global_head = head
    name = extractor.info.name if extractor.info else ""
    return {
        f"{name}: extraction, ms": 1e3 * times["without"],
        f"{name}: with the global descriptor, ms": 1e3 * times["with"],
        f"{name}: ratio": times["with"] / times["without"],
    }


def _search_time() -> dict[str, float]:
    """Return milliseconds of an exact search of a million vectors, ours and bare faiss, one query at a time."""
    import faiss

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_ROWS, _DIM), dtype=np.float32)
    queries = rng.standard_normal((_QUERIES, _DIM), dtype=np.float32)
    index = faiss.IndexFlatIP(_DIM)
    index.add(rows)
    del rows
    own = faiss.rev_swig_ptr(index.get_xb(), _ROWS * _DIM).reshape(_ROWS, _DIM)  # one copy for both
    threads = faiss.omp_get_max_threads()
    times: dict[str, list[float]] = {"ours": [], "faiss": []}
    for query in queries:
        start = time.perf_counter()
        scores = products(query, own, threads)
        ours = np.argpartition(-scores, _FIRST)[:_FIRST]
        times["ours"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = index.search(query[None], _FIRST)[1][0]
        times["faiss"].append(time.perf_counter() - start)
        assert set(ours.tolist()) == set(found.tolist())
    ms = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    return {
        f"{_ROWS:,} x {_DIM}-D, ms": ms["ours"],
        "bare faiss, ms": ms["faiss"],
        "ratio": ms["ours"] / ms["faiss"],
        "GB/s read": _ROWS * _DIM * 4 / ms["ours"] / 1e6,
    }


def _arguments() -> argparse.Namespace:
    parser = options_parser(__doc__, "out/global_search.json", data=True)
    parser.add_argument("--models", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--pairs", type=Path, required=True, help="mined pairs of landmarks that are for fitting")
    parser.add_argument("--labels", default="delf-r18", help="checkpoint that settles what shows one place")
    parser.add_argument("--dim", type=int, default=256, help="components of whitened vectors")
    parser.add_argument("--top", type=int, default=100, help="images of each ranking that are verified")
    return parser.parse_args()


if __name__ == "__main__":
    main()
