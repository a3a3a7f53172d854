"""Re-ranking a batch from a warm store: what a kill costs, and what an early stop saves.

    python -m benchmarks.reranking.stops [--model delf-r18] [--queries 70] [--top 100] [--features STORE]

Queries are the cropped ones of Sub-RParis, then images of its gallery (each without itself), or with `--features`
the first images of a store. Each has the first `--top` images of ASMK as its shortlist, with their scores. All is
verified as the default profile says; `verification/speed.py` has pairs a second of every profile.

Kill: a re-ranking with a journal, in another process that is killed (SIGKILL) once half of the pairs are done, and
resumed. Early stop: with a cap on the ranking score and only the first `--top-k` wanted; whether these places are
those that all verifications give.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import (
    data_folder,
    options_parser,
    own_process,
    print_rows,
    print_table,
    sub_rparis,
    timed,
    write_json,
)
from benchmarks.systems import model_system
from delf_engine import AsmkIndex, Codebook, LocalFeatures, load_profile
from delf_engine.errors import DataError
from delf_engine.reranking import RankedCandidate, RerankOptions, rank_verified, rerank_batch
from delf_engine.storage import FeatureStore
from delf_engine.support.threads import usable_cores

Features = Mapping[str, LocalFeatures]
Shortlists = dict[str, list[tuple[str, float]]]
Row = dict[str, Any]

_WORDS = 64  # of the codebook of a store of one's own


def main(argv: Sequence[str] | None = None) -> None:
    """Measure kill and early stop, print the tables, write JSON."""
    args = _arguments(argv)
    if args.child is not None:
        _child(*args.child)
        return
    queries, gallery, codebook = _collection(args)
    shortlists = _searched(queries, gallery, codebook, args.top)
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        folder = Path(name)
        _store(folder / "features", load_profile().storage.codec, {**gallery, **queries})
        with FeatureStore.open(folder / "features", readonly=True) as store:
            deque(store.items(), maxlen=0)  # reads every page
            _reranked(store, dict(islice(shortlists.items(), 1)), args.workers)  # compiles
            resumed = killed_and_resumed(store, folder, shortlists, args.workers)
            stops = stopped_early(store, shortlists, args.top_k, args.caps, args.workers)
    _print(resumed, stops, args)
    result = {"queries": len(shortlists), "pairs": _count(shortlists), "workers": args.workers}
    write_json(args.out, {**result, "kill": resumed, "early_stop": stops})


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
        system = model_system(args.model)
        found, gallery = system.ranked(sub_rparis(data), data, args.cache)
        queries = {f"query {name}": features for name, features in found.items()}
        assert system.codebook is not None
        codebook = Codebook.load(system.codebook)
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


def _store(path: Path, codec: Any, features: Features) -> None:
    with FeatureStore.create(path, dim=next(iter(features.values())).dim, codec=codec) as store:
        store.put_many(features.items())


def _count(shortlists: Shortlists) -> int:
    return sum(map(len, shortlists.values()))


def _reranked(
    store: FeatureStore, shortlists: Shortlists, workers: int, **options: Any
) -> dict[str, list[RankedCandidate]]:
    chosen = load_profile()
    profile = chosen.model_copy(update={"ranking": options.pop("ranking", chosen.ranking)})
    top_n, top_k = max(map(len, shortlists.values())), options.pop("top_k", None)
    given = RerankOptions.of(profile, top_n=top_n, top_k=top_k, workers=workers)
    return rerank_batch(store, shortlists, store, given, **options)


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
    process = own_process("benchmarks.reranking.stops", "--child", store.path, lists, journal, workers)
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
    resumed, found = timed(partial(_reranked, store, shortlists, workers, checkpoint=journal))
    whole, _ = timed(partial(_reranked, store, shortlists, workers, checkpoint=folder / "another journal"))
    plain, expected = timed(partial(_reranked, store, shortlists, workers))
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
        _reranked(store, shortlists, int(workers), checkpoint=journal, progress=progress)


# ------------------------------------------------------------------------------------------------------ early stop


def stopped_early(
    store: FeatureStore, shortlists: Shortlists, top_k: int, caps: Sequence[float], workers: int
) -> list[Row]:
    """Return, for each cap, how many pairs an early stop leaves out, and how many queries have equal places."""
    spent, everything = timed(partial(_reranked, store, shortlists, workers))
    rows: list[Row] = []
    for cap in caps:
        rule = load_profile().ranking.model_copy(update={"cap": cap})
        seconds, found = timed(partial(_reranked, store, shortlists, workers, ranking=rule, top_k=top_k))
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
                "saved": 1 - verified / _count(shortlists),
                "queries": len(shortlists),
                "equal": equal,
                "seconds": seconds,
                "seconds_all": spent,
            }
        )
    return rows


# ---------------------------------------------------------------------------------------------------------- output


def _print(resumed: Row, stops: Sequence[Row], args: argparse.Namespace) -> None:
    columns = ["kill -9 half-way, default", ""]
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
    stop_columns = {
        "cap": "{cap:g}",
        "pairs verified": "{verified:,} of {pairs:,}",
        "saved": "{saved:.0%}",
        f"queries with equal first {args.top_k}": "{equal} of {queries}",
        "s": "{seconds:.2f}",
        "s, all pairs": "{seconds_all:.2f}",
    }
    print_rows("Early stop", stops, stop_columns)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/reranking.json", data=True, model=True)
    parser.add_argument("--features", type=Path, help="a feature store, instead of the photographs")
    parser.add_argument("--queries", type=int, default=70)
    parser.add_argument("--top", type=int, default=100, help="candidates of each query")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--caps", nargs="+", type=float, default=[20.0, 35.0, 70.0])
    parser.add_argument("--quick", action="store_true", help="few pairs: does it run?")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.queries, args.top = min(args.queries, 5), min(args.top, 20)
    if min(args.queries, args.top, args.workers, args.top_k) < 1:
        parser.error("--queries, --top, --workers and --top-k must be at least 1")
    return args


if __name__ == "__main__":
    main()
