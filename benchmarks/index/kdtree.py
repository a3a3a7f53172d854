"""How many of the true nearest descriptors each index of single descriptors finds, and what that costs.

python -m benchmarks.index.kdtree [--images 1000] [--features STORE ... --codebook FILE] [--checks ...]
    [--probes ...]

The peer is brute force (faiss), in the same run. recall@1: the first descriptor found is as near as the nearest
one; 1 in 60: it is among the neighbours found; recall@60: of the 60 nearest, how many are found. Times are those
of a whole search with one image, votes included, and of all threads together (CPU); the first search, which grows
trees or maps files, is not in them. Bytes an image: of the arrays of the index, and of what growing trees adds to
the memory of the process.

By default descriptors are synthetic, as in codebook_assignment.py, 1,000 an image, and so are the cells: as many
as fit, at most 16,384. With ``--features`` they are those of feature stores, or of as many of their last images,
of which the very last are held out as queries, and with ``--codebook`` cells are the words of a file.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import memory, options_parser, print_rows, write_json
from benchmarks.index.synthetic import descriptors as synthetic
from delf_engine.config import KdTreeConfig, Profile, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, IvfIndex, KdTreeIndex, ProductQuantizer
from delf_engine.index.votes import gathered
from delf_engine.storage import FeatureStore

_WORDS = 16384
_TRAINING = 200_000  # descriptors that a product quantiser is trained on
_NEIGHBOURS = 60

Rows = npt.NDArray[Any]
Row = dict[str, Any]


def made_up(images: int, each: int, rng: np.random.Generator) -> list[LocalFeatures]:
    """Return images of synthetic descriptors."""
    return [_features(synthetic(each, rng)) for _ in range(images)]


def stored(paths: Sequence[Path], leave_out: str | None, rng: np.random.Generator) -> list[LocalFeatures]:
    """Return the images of feature stores, in random order, but for those whose ids begin with `leave_out`."""
    out: list[LocalFeatures] = []
    for path in paths:
        with FeatureStore.open(path, readonly=True) as store:
            ids = [i for i in store.ids() if not leave_out or not i.startswith(leave_out)]
            out += [item for item in store.get_many([ids[int(i)] for i in rng.permutation(len(ids))]) if len(item)]
    return out


def measure(
    collection: list[LocalFeatures],
    queries: list[LocalFeatures],
    codebook: Codebook,
    args: argparse.Namespace,
) -> Iterator[Row]:
    """Yield one row for brute force and for each index and setting."""
    data = np.concatenate([item.descriptors for item in collection])
    owners = np.repeat(np.arange(len(collection)), [len(item) for item in collection])
    peer, truth = _brute_force(data, owners, queries, len(collection))
    yield peer
    profile = load_profile()

    def judged(row: Row, found: list[Rows]) -> Row:
        return {**row, **_recalls(data, queries, truth, found)}

    for row, found in _kdtree(collection, queries, profile, args, len(data)):
        yield judged(row, found)
    for codec in args.codecs:
        for row, found in _ivf(collection, queries, codebook, profile, codec, args):
            yield judged(row, found)


def _brute_force(data: Rows, owners: Rows, queries: list[LocalFeatures], images: int) -> tuple[Row, list[Rows]]:
    import faiss

    truth: list[Rows] = []

    def search(query: LocalFeatures) -> None:
        squared, rows = faiss.knn(query.descriptors, data, min(_NEIGHBOURS, len(data)))
        gathered(rows, squared, owners[rows], images)
        truth.append(rows)

    row = {
        "index": "brute force",
        "build_s": 0.0,
        "bytes_an_image": data.nbytes / images,
        "recall_at_1": 1.0,
        "one_in_60": 1.0,
        "recall_at_60": 1.0,
        **_times(search, queries, 1),
    }
    return row, truth


def _kdtree(
    collection: list[LocalFeatures],
    queries: list[LocalFeatures],
    profile: Profile,
    args: argparse.Namespace,
    count: int,
) -> Iterator[tuple[Row, list[Rows]]]:
    for search in ("randomised", "exact"):
        if args.checks if search == "randomised" else count <= args.exact_up_to:
            config = profile.kdtree.model_copy(update={"search": search, "neighbours": _NEIGHBOURS})
            _kdtree_of(collection[:1], config)._session()  # what is imported by this is no part of an index
            yield from _kdtree_rows(collection, queries, config, args)
            gc.collect()


def _kdtree_of(images: list[LocalFeatures], config: KdTreeConfig) -> KdTreeIndex:
    index = KdTreeIndex(images[0].dim, config)
    index.add([str(i) for i in range(len(images))], images)
    return index


def _kdtree_rows(
    collection: list[LocalFeatures], queries: list[LocalFeatures], config: KdTreeConfig, args: argparse.Namespace
) -> Iterator[tuple[Row, list[Rows]]]:
    index = _kdtree_of(collection, config)
    arrays, before, start = index.info().bytes, (memory("VmRSS") or 0), time.perf_counter()
    forest = index._session()  # recall is that of descriptors, which a search does not return
    assert forest is not None
    build = time.perf_counter() - start
    size = (arrays + max(0, (memory("VmRSS") or 0) - before)) / len(collection)
    for checks in args.checks if config.search == "randomised" else [0]:
        index.config = config.model_copy(update={"checks": checks or 1})
        name = f"FLANN, {checks} checks" if checks else "cKDTree, exact"
        found = [forest.nearest(query.descriptors, index.config)[0] for query in queries]
        row = {"index": name, "checks": checks, "build_s": build, "bytes_an_image": size}
        yield {**row, **_times(lambda q: index.search(q, 100), queries, args.rounds)}, found


def _ivf(
    collection: list[LocalFeatures],
    queries: list[LocalFeatures],
    codebook: Codebook,
    profile: Profile,
    codec: str,
    args: argparse.Namespace,
) -> Iterator[tuple[Row, list[Rows]]]:
    quantizer = _quantizer(collection, codebook) if codec == "pq" else None
    config = profile.ivf.model_copy(update={"codec": codec, "neighbours": _NEIGHBOURS})
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        start = time.perf_counter()
        index = IvfIndex(codebook, config, quantizer)
        for first in range(0, len(collection), 1000):
            part = collection[first : first + 1000]
            index.add([str(first + i) for i in range(len(part))], part)
            index.save(folder)
        build = time.perf_counter() - start
        index = IvfIndex.load(folder, codebook, quantizer=quantizer, check=False)
        for probes in args.probes:
            for rescored in args.rescored if codec == "pq" else [0]:
                index.config = config.model_copy(update={"probes": probes, "rescored": rescored or 1})
                searcher = index._session()
                found = [
                    searcher.nearest(query.descriptors, searcher.cells(query.descriptors), 1)[0]
                    for query in queries
                ]
                info = index.info()
                row = {
                    "index": f"IVF {codec}, {probes} probes" + (f", x {rescored}" if rescored else ""),
                    "probes": searcher.probes,
                    "rescored": rescored,
                    "segments": info.segments,
                    "build_s": build,
                    "bytes_an_image": info.bytes / info.images,
                }
                yield {**row, **_times(lambda q: index.search(q, 100), queries, args.rounds)}, found


def _quantizer(collection: list[LocalFeatures], codebook: Codebook) -> ProductQuantizer:
    step = max(1, sum(map(len, collection)) // _TRAINING)
    return ProductQuantizer.train(np.concatenate([item.descriptors[::step] for item in collection]), codebook)


def _recalls(data: Rows, queries: list[LocalFeatures], truth: list[Rows], found: list[Rows]) -> dict[str, float]:
    first, among, share = [], [], []
    for query, wanted, rows in zip(queries, truth, found, strict=True):
        x = query.descriptors[:, None].astype(np.float64)
        nearest = ((x - data[wanted[:, :1]]) ** 2).sum(-1)
        squared = np.where(rows >= 0, ((x - data[rows]) ** 2).sum(-1), np.inf)
        close = squared <= nearest * (1 + 1e-6) + 1e-12  # equal descriptors will do
        first.append(close[:, 0])
        among.append(close.any(1))
        share.append([np.isin(a, b).mean() for a, b in zip(wanted, rows, strict=True)])
    parts = {"recall_at_1": first, "one_in_60": among, "recall_at_60": share}
    return {name: float(np.concatenate(values).mean()) for name, values in parts.items()}


def _times(search: Callable[[LocalFeatures], Any], queries: list[LocalFeatures], rounds: int) -> dict[str, float]:
    wall, processor = [], []
    for turn in range(rounds):
        for number, query in enumerate(queries):
            if rounds > 1 and not turn and not number:
                search(query)  # warms up
            before = time.perf_counter(), time.process_time()
            search(query)
            wall.append((time.perf_counter() - before[0]) / len(query))
            processor.append((time.process_time() - before[1]) / len(query))
    # Of 1,000 descriptors: milliseconds a query, microseconds each.
    return {"query_ms": statistics.median(wall) * 1e6, "query_cpu_ms": statistics.median(processor) * 1e6}


def _features(descriptors: npt.NDArray[np.float32]) -> LocalFeatures:
    one = np.ones(len(descriptors), np.float32)
    return LocalFeatures(np.zeros((len(one), 2), np.float32), one, one, descriptors, (9, 9))


def _given(args: argparse.Namespace, rng: np.random.Generator) -> Iterator[tuple[list[LocalFeatures], Codebook]]:
    """Yield each set of images, the last ones to be held out, and its codebook."""
    if args.features:
        every = stored(args.features, args.leave_out, rng)
        for count in args.images or [len(every)]:
            images = every[max(0, len(every) - count - args.queries) :]
            yield images, _codebook(args, images)
        return
    for count in args.images or [1000]:
        images = made_up(count + args.queries, args.each, rng)
        yield images, _codebook(args, images)


def _codebook(args: argparse.Namespace, images: list[LocalFeatures]) -> Codebook:
    if args.codebook:
        return Codebook.load(args.codebook)
    words = min(_WORDS, max(1, sum(map(len, images)) // 4))
    return Codebook(synthetic(words, np.random.default_rng(2)))


def main(argv: list[str] | None = None) -> None:
    """Measure each collection, print a table for each, write JSON."""
    args = _arguments(argv)
    rng, results = np.random.default_rng(1), []
    for images, codebook in _given(args, rng):
        collection, queries = images[: -args.queries], images[-args.queries :]
        rows = []
        for row in measure(collection, queries, codebook, args):
            rows.append(row)
            print(row, flush=True) if args.verbose else None
        count = sum(map(len, collection))
        title = f"{len(collection):,} images, {count:,} descriptors, {codebook.words:,} cells"
        columns = {
            "index": "{index}",
            "recall@1": "{recall_at_1:.4f}",
            "1 in 60": "{one_in_60:.4f}",
            "recall@60": "{recall_at_60:.4f}",
            "query ms": "{query_ms:.1f}",
            "CPU ms": "{query_cpu_ms:.1f}",
            "bytes an image": "{bytes_an_image:,.0f}",
            "build s": "{build_s:.1f}",
        }
        print_rows(f"{title}; a query of 1,000 descriptors", rows, columns)
        results.append({"images": len(collection), "descriptors": count, "words": codebook.words, "rows": rows})
    write_json(args.out, {"queries": args.queries, "rounds": args.rounds, "collections": results})


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/kdtree.json")
    parser.add_argument("--images", type=int, nargs="+", help="of each collection: 1000; of stores, all")
    parser.add_argument("--each", type=int, default=1000, help="descriptors of a synthetic image")
    parser.add_argument("--features", type=Path, nargs="+", help="feature stores instead of synthetic images")
    parser.add_argument("--leave-out", help="images of the stores whose ids begin so, such as cropped queries")
    parser.add_argument("--codebook", type=Path, help="a codebook file instead of synthetic cells")
    parser.add_argument("--queries", type=int, default=5, help="images held out")
    parser.add_argument("--checks", type=int, nargs="*", default=[64, 256, 1024, 4096], help="of randomised trees")
    parser.add_argument("--codecs", nargs="*", choices=["uint8", "pq"], default=["uint8", "pq"])
    parser.add_argument("--probes", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--rescored", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--exact-up-to", type=int, default=100_000, help="descriptors that cKDTree is asked about")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="of the indexes on disk; by default a temporary one")
    parser.add_argument("--verbose", action="store_true", help="print each row at once")
    args = parser.parse_args(argv)
    if args.queries < 1 or args.rounds < 1:
        parser.error("--queries and --rounds must be at least 1")
    return args


if __name__ == "__main__":
    main()
