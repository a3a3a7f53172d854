"""What confirmation costs: queries a minute, re-ranked from a warm store with and without fine evidence.

    python -m benchmarks.reranking.confirming [--model delf-r18] [--queries 60] [--top 100] [--confirm 0 10]
        [--workers 2] [--data DIR]

Queries are photographs of Sub-RParis, each with the first `--top` others of ASMK as its shortlist. Coarse and fine
features lie in feature stores as an engine keeps them, whose pages have been read. The floor of float32 is the
products of all descriptors of each pair, by BLAS on as many threads, and nothing else; the package matches fine
features in 8 bits, which may be faster.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

import delf_engine
from benchmarks.common import data_folder, options_parser, print_rows, sub_rparis, timed, write_json
from benchmarks.systems import model_system
from benchmarks.verification.evidence import Evidence, Picture
from delf_engine import AsmkIndex, Codebook, LocalFeatures
from delf_engine.extraction.fine import FINE_DIM
from delf_engine.storage import FeatureStore
from delf_engine.storage.codec import Codec
from delf_engine.support.threads import usable_cores

Lists = Mapping[str, Sequence[tuple[str, float]]]


def main() -> None:
    """Measure, print the table, write JSON."""
    parser = options_parser(__doc__, "out/confirming.json", data=True, model=True)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--top", type=int, default=100, help="candidates of a query")
    parser.add_argument("--confirm", type=int, nargs="+", default=[0, 10])
    parser.add_argument("--workers", type=int, default=usable_cores())
    args = parser.parse_args()
    data = data_folder(args.data)
    system = model_system(args.model)
    evidence = Evidence(system, data, args.cache)
    pictures = [Picture(f"paris/{name}.jpg") for name in sub_rparis(data).names]
    evidence.pictures.update({picture.id: picture for picture in pictures})
    names = [picture.id for picture in pictures]
    coarse = {name: evidence.coarse(names)[name] for name in names}
    assert system.codebook is not None
    index = AsmkIndex(Codebook.load(system.codebook), system.profile.asmk)
    index.add(names, list(coarse.values()))
    lists = {}
    for query in names[:: max(1, len(names) // args.queries)][: args.queries]:
        ids, scores = index.search(coarse[query], args.top + 1)
        found = zip(ids, scores.tolist(), strict=True)
        lists[query] = [pair for pair in found if pair[0] != query][: args.top]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        details = stack.enter_context(evidence._fine_store(names))
        stores = [
            stack.enter_context(_stored(folder / "features", coarse, system.dim, system.profile.storage.codec)),
            stack.enter_context(_stored(folder / "fine", dict(details.items()), FINE_DIM, "uint8")),
        ]
        stack.enter_context(threadpool_limits(1))  # floor and engine alike have threads of their own
        rows = [
            {"what": f"confirm={n}", **_speed(len(lists), _reranked(stores, lists, n, args.workers))}
            for n in args.confirm
        ]
        for n in args.confirm:
            counts = zip(stores, (args.top, n), strict=True)
            seconds = sum(_floor(store, lists, count, args.workers) for store, count in counts if count)
            rows.append(
                {"what": f"products alone, confirm={n}", "seconds": seconds, "a_minute": 60 * len(lists) / seconds}
            )
    columns = {"": "{what}", "queries a minute": "{a_minute:.0f}", "s": "{seconds:.1f}"}
    print_rows(f"{args.model}: {len(lists)} queries of {args.top} candidates, {args.workers} cores", rows, columns)
    write_json(args.out, {"queries": len(lists), "top": args.top, "workers": args.workers, "rows": rows})


def _stored(folder: Path, features: Mapping[str, LocalFeatures], dim: int, codec: Codec) -> FeatureStore:
    """Return a store of features whose pages have been read."""
    with FeatureStore.create(folder, dim=dim, codec=codec, model="benchmark") as store:
        store.put_many(features.items())
    opened = FeatureStore.open(folder, readonly=True)
    deque(opened.items(), maxlen=0)
    return opened


def _speed(queries: int, work: Any) -> dict[str, float]:
    work(1)  # compiles
    seconds, _ = timed(lambda: work(queries))
    return {"seconds": seconds, "a_minute": 60 * queries / seconds}


def _reranked(stores: Sequence[FeatureStore], lists: Lists, confirm: int, workers: int) -> Any:
    coarse, fine = stores

    def work(queries: int) -> None:
        some = dict(list(lists.items())[:queries])
        top = max(map(len, some.values()))
        delf_engine.rerank_many(
            coarse,
            some,
            coarse,
            top_n=top,
            confirm=confirm,
            fine=(fine, fine) if confirm else None,
            workers=workers,
        )

    return work


def _floor(store: FeatureStore, lists: Lists, count: int, workers: int) -> float:
    """Return the seconds of the products of descriptors of each query with its first `count` candidates."""
    known = {name: features.descriptors for name, features in store.items()}

    def products(query: str) -> None:
        for name, _ in lists[query][:count]:
            known[query] @ known[name].T

    with ThreadPoolExecutor(workers) as pool:
        return timed(lambda: list(pool.map(products, lists)))[0]


if __name__ == "__main__":
    main()
