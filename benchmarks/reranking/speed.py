"""Re-ranking a batch from a warm store: pairs a second, what a kill costs, what an early stop saves.

    python -m benchmarks.reranking.speed [--model delf-r18] [--queries 70] [--top 100] [--rounds 3]
        [--features STORE]

Queries are the cropped ones of Sub-RParis, then images of its gallery (each without itself), or with `--features`
the first images of a store. Each has the first `--top` images of ASMK as its shortlist, with their scores.

Speed: `rerank_batch` with the [verification] of each profile, from a store of each codec, with one worker and one
a core. All profiles verify the same features, those of the model's profile. Estimators that need processes are
slow and verify an even selection (`--slow-pairs`), as the published path does (`--peer-pairs`; one process, or one
a core). Median of the rounds, in which all take turns, after a warm-up.

Kill: the default profile with a journal, in another process that is killed (SIGKILL) once half of the pairs are
done, and resumed. Early stop: the default profile with a cap on its ranking score and only the first `--top-k`
wanted; whether these places are those that all verifications give.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

from benchmarks.common import data_folder, own_process, print_table, rank_features, sub_rparis, write_json
from benchmarks.verification.peers import published_path
from delf_engine import AsmkIndex, Codebook, Extractor, LocalFeatures, load_profile
from delf_engine.errors import DataError
from delf_engine.model import codebook_path
from delf_engine.reranking import RankedCandidate, RerankOptions, rank_verified, rerank_batch
from delf_engine.reranking.scheduling import needs_processes
from delf_engine.storage import FeatureStore
from delf_engine.support.threads import usable_cores

Features = Mapping[str, LocalFeatures]
Shortlists = dict[str, list[tuple[str, float]]]
Row = dict[str, Any]

_PROFILES = ("fast", "default", "accurate", "delf")
_CODECS = ("float32", "uint8")
_PUBLISHED = "published path"
_UNUSED = load_profile("delf").verification  # the published path has its own numbers
_WARM_UP = 100  # pairs
_WORDS = 64  # of the codebook of a store of one's own


def main(argv: Sequence[str] | None = None) -> None:
    """Measure speed, kill and early stop, print the tables, write JSON."""
    args = _arguments(argv)
    if args.child is not None:
        _child(*args.child)
        return
    queries, gallery, codebook = _collection(args)
    shortlists = _searched(queries, gallery, codebook, args.top)
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        folder = Path(name)
        stores = {codec: _store(folder / codec, codec, {**gallery, **queries}) for codec in args.codecs}
        try:
            rows = speeds(stores, shortlists, args)
            source = stores[args.codecs[0]]
            resumed = killed_and_resumed(source, folder, shortlists, args.workers)
            stops = stopped_early(source, shortlists, args.top_k, args.caps, args.workers)
        finally:
            for store in stores.values():
                store.close()
    _print(rows, resumed, stops, args)
    result = {"queries": len(shortlists), "pairs": _count(shortlists), "workers": args.workers}
    write_json(args.out, {**result, "rounds": args.rounds, "speed": rows, "kill": resumed, "early_stop": stops})


# -------------------------------------------------------------------------------------------------- the collection


def _collection(args: argparse.Namespace) -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures], Codebook]:
    """Return the features of queries and gallery, under different ids, and the words of the search."""
    if args.features is not None:
        with FeatureStore.open(args.features, readonly=True) as store:
            gallery = dict(store.items())
        words = np.concatenate(
            [features.descriptors for features in gallery.values()] or [np.empty((0, 1), np.float32)]
        )
        if len(words) < _WORDS:
            raise DataError(f"{args.features}: {len(words)} features are too few to re-rank")
        codebook = Codebook.train(words, _WORDS, seed=0)
        queries: dict[str, LocalFeatures] = {}
    else:
        data = data_folder(args.data)
        extractor = Extractor.from_pretrained(args.model)
        assert extractor.info is not None
        identity = f"{extractor.info.identity} {extractor.config.model_dump_json()}"
        truth = sub_rparis(data)
        found, gallery = rank_features(extractor, identity, extractor.network.dim, truth, data, args.cache)
        queries = {f"query {name}": features for name, features in found.items()}
        path = codebook_path(args.model)
        assert path is not None
        codebook = Codebook.load(path)
    more = islice(((f"query {name}", features) for name, features in gallery.items()), args.queries)
    queries = dict(islice({**queries, **dict(more)}.items(), args.queries))
    return queries, gallery, codebook


def _searched(queries: Features, gallery: Features, codebook: Codebook, top: int) -> Shortlists:
    """Return the first images of ASMK for each query, without itself."""
    index = AsmkIndex(codebook, load_profile().asmk)
    index.add(list(gallery), list(gallery.values()))
    shortlists: Shortlists = {}
    for query, features in queries.items():
        ids, scores = index.search(features, top + 1)
        found = [
            (name, score) for name, score in zip(ids, scores.tolist(), strict=True) if f"query {name}" != query
        ]
        shortlists[query] = found[:top]
    return shortlists


def _store(path: Path, codec: Any, features: Features) -> FeatureStore:
    with FeatureStore.create(path, dim=next(iter(features.values())).dim, codec=codec) as store:
        store.put_many(features.items())
    return FeatureStore.open(path, readonly=True)


def _count(shortlists: Shortlists) -> int:
    return sum(map(len, shortlists.values()))


def thinned(shortlists: Shortlists, pairs: int) -> Shortlists:
    """Return about so many of the pairs, spread over all queries and places."""
    every = [(query, entry) for query, found in shortlists.items() for entry in found]
    kept = every[:: max(1, len(every) // pairs)]
    out: Shortlists = {}
    for query, entry in kept:
        out.setdefault(query, []).append(entry)
    return out


# ----------------------------------------------------------------------------------------------------------- speed


def speeds(stores: Mapping[str, FeatureStore], shortlists: Shortlists, args: argparse.Namespace) -> list[Row]:
    """Return seconds and pairs a second of each contender with one worker and with all."""
    few = thinned(shortlists, args.peer_pairs)
    source = next(iter(stores.values()))
    rows: list[Row] = [{"name": _PUBLISHED, "codec": "", "pairs": _count(few)}]
    runs: list[Callable[[int], Any]] = [partial(_published, source, few)]
    counts = dict.fromkeys((1, args.workers))
    for name in args.profiles:
        slow = needs_processes(load_profile(name).verification)
        lists = thinned(shortlists, args.slow_pairs) if slow else shortlists
        for codec, store in stores.items():
            rows.append({"name": name, "codec": codec, "pairs": _count(lists)})
            runs.append(partial(_reranked, store, lists, name))
            for workers in counts:  # compiles, starts processes
                _reranked(store, thinned(lists, _WARM_UP), name, workers)
    for store in stores.values():
        deque(store.items(), maxlen=0)  # reads every page
    seconds: dict[tuple[int, int], list[float]] = {}
    for _ in range(args.rounds):
        for i, run in enumerate(runs):
            for workers in counts:
                seconds.setdefault((i, workers), []).append(_timed(partial(run, workers))[0])
    for i, row in enumerate(rows):
        row["seconds"] = {str(workers): statistics.median(seconds[i, workers]) for workers in counts}
        row["pairs_a_second"] = {workers: row["pairs"] / spent for workers, spent in row["seconds"].items()}
    return rows


def _reranked(
    store: FeatureStore, shortlists: Shortlists, profile: str, workers: int, **options: Any
) -> dict[str, list[RankedCandidate]]:
    given = RerankOptions.of(
        load_profile(profile),
        top_n=max(map(len, shortlists.values())),
        top_k=options.pop("top_k", None),
        workers=workers,
    )
    given = replace(given, ranking=options.pop("ranking", given.ranking))
    return rerank_batch(store, shortlists, store, given, **options)


def _published(store: FeatureStore, shortlists: Shortlists, workers: int) -> list[int]:
    pairs = [(store.get(query), store.get(name)) for query, found in shortlists.items() for name, _ in found]
    if workers == 1:
        return [published_path(a, b, _UNUSED) for a, b in pairs]
    with parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        return list(Parallel()(delayed(published_path)(a, b, _UNUSED) for a, b in pairs))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    out = work()
    return time.perf_counter() - start, out


# ------------------------------------------------------------------------------------------------------------ kill


def killed_and_resumed(store: FeatureStore, folder: Path, shortlists: Shortlists, workers: int) -> Row:
    """Kill a re-ranking half-way and resume it from its journal.

    Returns
    -------
    dict
        ``pairs_done``: of all, when it was killed, as its last call of progress said. ``pairs_kept``: of finished
        queries, in the journal. ``pairs_again``: done and not kept. ``seconds_resumed`` and, without a kill,
        ``seconds_journal`` and ``seconds_plain``; ``same``: whether the resumed rankings equal these.
    """
    lists, journal = folder / "shortlists.json", folder / "journal"
    lists.write_text(json.dumps(shortlists), encoding="utf-8")
    process = own_process("benchmarks.reranking.speed", "--child", store.path, lists, journal, workers)
    assert process.stdout is not None
    done, total = 0, _count(shortlists)
    for line in process.stdout:
        done = int(line)
        if 2 * done >= total:
            process.kill()
            break
    for line in process.stdout:  # what it still said before the end
        done = int(line) if line.endswith("\n") else done
    process.wait()
    records = [
        json.loads(line[9:]) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    kept = sum(len(record["verified"]) + len(record["missing"]) for record in records[1:])
    resumed, found = _timed(partial(_reranked, store, shortlists, "default", workers, checkpoint=journal))
    whole, _ = _timed(
        partial(_reranked, store, shortlists, "default", workers, checkpoint=folder / "another journal")
    )
    plain, expected = _timed(partial(_reranked, store, shortlists, "default", workers))
    return {
        "pairs": total,
        "pairs_done": done,
        "pairs_kept": kept,
        "pairs_again": done - kept,
        "seconds_resumed": resumed,
        "seconds_journal": whole,
        "seconds_plain": plain,
        "journal_bytes": journal.stat().st_size,
        "same": found == expected,
    }


def _child(store_path: str, lists: str, journal: str, workers: str) -> None:
    """Re-rank with a journal and say how many pairs are done."""
    shortlists = {
        query: [(name, score) for name, score in found]
        for query, found in json.loads(Path(lists).read_text(encoding="utf-8")).items()
    }
    with FeatureStore.open(store_path, readonly=True) as store, threadpool_limits(1):
        progress = lambda done, total: print(done, flush=True)  # noqa: E731
        _reranked(store, shortlists, "default", int(workers), checkpoint=journal, progress=progress)


# ------------------------------------------------------------------------------------------------------ early stop


def stopped_early(
    store: FeatureStore, shortlists: Shortlists, top_k: int, caps: Sequence[float], workers: int
) -> list[Row]:
    """Return, for each cap, how many pairs an early stop leaves out, and how many queries have equal places."""
    spent, everything = _timed(partial(_reranked, store, shortlists, "default", workers))
    rows: list[Row] = []
    for cap in caps:
        rule = load_profile().ranking.model_copy(update={"cap": cap})
        seconds, found = _timed(
            partial(_reranked, store, shortlists, "default", workers, ranking=rule, top_k=top_k)
        )
        equal = 0
        for query, ranking in everything.items():
            known = {c.id: c.verification for c in ranking if c.verification is not None}
            full = rank_verified(shortlists[query], known, ranking=rule)
            equal += [c.id for c in full[:top_k]] == [c.id for c in found[query][:top_k]]
        verified = sum(c.verification is not None for ranking in found.values() for c in ranking)
        rows.append(
            {
                "cap": cap,
                "pairs": _count(shortlists),
                "verified": verified,
                "queries": len(shortlists),
                "equal": equal,
                "seconds": seconds,
                "seconds_all": spent,
            }
        )
    return rows


# ---------------------------------------------------------------------------------------------------------- output


def _print(rows: Sequence[Row], resumed: Row, stops: Sequence[Row], args: argparse.Namespace) -> None:
    counts = [str(workers) for workers in dict.fromkeys((1, args.workers))]
    base = rows[0]["pairs_a_second"]
    table = []
    for row in rows:
        cells = [row["name"], row["codec"], f"{row['pairs']:,}"]
        for workers in counts:
            speed = row["pairs_a_second"][workers]
            cells += [f"{row['seconds'][workers]:.2f}", f"{speed:,.1f}", f"{speed / base[workers]:,.1f}"]
        table.append(cells)
    columns = ["profile", "store", "pairs"]
    for workers in counts:
        columns += [f"s, {workers} worker{'s' * (workers != '1')}", "pairs / s", "x"]
    print_table(f"Re-ranking; x: times the published path; median of {args.rounds} rounds", columns, table)
    columns = ["kill -9 half-way, default", "pairs"]
    table = [
        ["done when killed", f"{resumed['pairs_done']:,} of {resumed['pairs']:,}"],
        ["in the journal", f"{resumed['pairs_kept']:,}"],
        ["verified again", f"{resumed['pairs_again']:,}"],
        ["resumed run", f"{resumed['seconds_resumed']:.2f} s"],
        ["whole run with a journal", f"{resumed['seconds_journal']:.2f} s"],
        ["whole run without", f"{resumed['seconds_plain']:.2f} s"],
        ["journal", f"{resumed['journal_bytes'] / 1e6:.1f} MB"],
        ["same rankings", "yes" if resumed["same"] else "NO"],
    ]
    print_table("A journal", columns, table)
    table = [
        [
            f"{row['cap']:g}",
            f"{row['verified']:,} of {row['pairs']:,}",
            f"{100 * (1 - row['verified'] / row['pairs']):.0f} %",
            f"{row['equal']} of {row['queries']}",
            f"{row['seconds']:.2f}",
            f"{row['seconds_all']:.2f}",
        ]
        for row in stops
    ]
    columns = ["cap", "pairs verified", "saved", f"queries with equal first {args.top_k}", "s", "s, all pairs"]
    print_table("Early stop", columns, table)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds paris/ and revisited/")
    parser.add_argument("--model", default="delf-r18", help="name or path of a checkpoint")
    parser.add_argument("--features", type=Path, help="a feature store, instead of the photographs")
    parser.add_argument("--queries", type=int, default=70)
    parser.add_argument("--top", type=int, default=100, help="candidates of each query")
    parser.add_argument("--profiles", nargs="+", default=_PROFILES, help="whose verification is measured")
    parser.add_argument("--codecs", nargs="+", default=_CODECS, help="of the stores")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--slow-pairs", type=int, default=700, help="of estimators that need processes")
    parser.add_argument("--peer-pairs", type=int, default=70, help="of the published path")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--caps", nargs="+", type=float, default=[20.0, 35.0, 70.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of few pairs: does it run?")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"))
    parser.add_argument("--out", type=Path, default=Path("out/reranking.json"))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.queries, args.top, args.rounds = min(args.queries, 5), min(args.top, 20), 1
        args.slow_pairs, args.peer_pairs = min(args.slow_pairs, 20), min(args.peer_pairs, 8)
    numbers = (args.queries, args.top, args.workers, args.slow_pairs, args.peer_pairs, args.top_k, args.rounds)
    if min(numbers) < 1:
        parser.error("numbers of queries, candidates, workers, pairs and rounds must be at least 1")
    return args


if __name__ == "__main__":
    main()
