"""How fast pairs are verified from a warm store, beside the published path and plain scripts, in one run.

    python -m benchmarks.verification.speed [--model delf-r18] [--features STORE] [--pairs 7000] [--rounds 3]

Features are those of the photographs of Sub-RParis that have 1,000 (or of `--features`), copied to a store of each
codec. The first 70 images are queries, and each is verified with the 100 that follow it in the order of the
collection (`--pairs` in all). The published path and the scripts verify a random selection of these pairs
(`--peer-pairs` in all), the same in each round; the column "inliers" is the mean over it, for all contenders.

published path     scipy's cKDTree within a distance of 0.8; scikit-image's ransac, AffineTransform, 3, 20 px, 1000
NumPy, pydegensac  mutual nearest neighbours by a matrix product; findHomography with the numbers of ``accurate``
OpenCV, MAGSAC++   BFMatcher with crossCheck; findHomography with the numbers of ``accurate``
ours               the [verification] of a profile from a store of its codec: `PairVerifier` in one thread, and
                   `rerank_batch` on all cores

One core: one process with one thread. All cores: as many processes of one thread (peers), or what `rerank_batch`
does. Each figure is the median of the rounds, in which all contenders take turns, after a warm-up. Second table:
the parts of a pair (`verification/parts.py`), and the matrix product of its descriptors by BLAS, in one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import data_folder, options_parser, print_markdown, sub_rparis, write_json
from benchmarks.systems import model_system
from benchmarks.verification.parts import medians, parts_of_a_pair
from benchmarks.verification.peers import PEERS, Shortlists, run_all, run_one
from delf_engine import LocalFeatures, load_profile
from delf_engine.config import VerificationConfig
from delf_engine.errors import DataError
from delf_engine.reranking import RerankOptions, rerank_batch
from delf_engine.storage import FeatureStore
from delf_engine.storage.codec import CODECS
from delf_engine.support.processes import ProcessPool, process_pool
from delf_engine.support.threads import usable_cores
from delf_engine.verification import PairVerifier, Verification

Row = dict[str, Any]

_OURS = ("delf", "accurate", "default", "fast")
_PUBLISHED = next(iter(PEERS))
_QUERIES = 70
_FEATURES = 1000


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all contenders and the parts of a pair, print the tables, write JSON."""
    args = _arguments(argv)
    features = _features(args)
    if len(features) < 2:
        raise DataError(f"{len(features)} images with {args.each} features: two are needed to verify a pair")
    shortlists = neighbours(list(features), args.pairs)
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {codec: Path(folder) / codec for codec in CODECS}
        for codec in CODECS:
            with FeatureStore.create(paths[codec], dim=next(iter(features.values())).dim, codec=codec) as store:
                store.put_many(features.items())
        with process_pool(usable_cores()) as pool:  # of the peers
            rows = speeds(paths, shortlists, args, pool)
        pairs = [(query, image) for query, ids in thinned(shortlists, args.peer_pairs).items() for image in ids]
        stores = {codec: FeatureStore.open(path, readonly=True) for codec, path in paths.items()}
        ways = {name: load_profile(name).verification for name in _OURS}
        parts = parts_of_a_pair(features, stores, pairs, ways, rounds=args.rounds)
        for store in stores.values():
            store.close()
    operations = 2 * args.each**2 * next(iter(features.values())).dim
    _print(rows, parts, operations, args)
    result = {
        "features": args.each,
        "cores": usable_cores(),
        "rounds": args.rounds,
        "rows": rows,
        "parts_us": parts,
        "blas_gflops": operations / parts["matrix product, BLAS"] / 1000,
    }
    write_json(args.out, result)


def neighbours(ids: Sequence[str], pairs: int) -> dict[str, list[str]]:
    """Return about so many pairs: for each query the images that follow it, the first again after the last."""
    queries = min(_QUERIES, len(ids), pairs)
    each = min(len(ids) - 1, -(-pairs // queries))
    return {ids[q]: [ids[(q + 1 + k) % len(ids)] for k in range(each)] for q in range(queries)}


def thinned(shortlists: Shortlists, pairs: int) -> dict[str, list[str]]:
    """Return so many of the pairs, the same ones each time, in their order."""
    every = [(query, image) for query, ids in shortlists.items() for image in ids]
    # At random: at an even step neighbours in the collection, which often show one place, would be too many.
    chosen = np.random.default_rng(0).choice(len(every), min(pairs, len(every)), replace=False)
    some = [every[place] for place in np.sort(chosen)]
    return {query: [image for q, image in some if q == query] for query in dict.fromkeys(q for q, _ in some)}


def speeds(
    paths: Mapping[str, Path], shortlists: Shortlists, args: argparse.Namespace, pool: ProcessPool
) -> dict[str, Row]:
    """Return pairs a second of each contender, on one core and on all, and the ratio to the published path."""
    cores = usable_cores()
    few = thinned(shortlists, args.peer_pairs)
    settings = load_profile("accurate").verification
    codec = load_profile().storage.codec
    opened = {codec: FeatureStore.open(path, readonly=True) for codec, path in paths.items()}
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    inliers: dict[str, float] = {}
    for peer in PEERS:
        runs[peer, "one"] = partial(run_one, peer, opened[codec], few, settings)
        runs[peer, "all"] = partial(run_all, pool, peer, paths[codec], few, settings)
        counts = runs[peer, "one"]()
        inliers[peer] = sum(counts) / len(counts)
    for name in _OURS:
        profile = load_profile(name)
        source = opened[profile.storage.codec]
        runs[name, "one"] = partial(_in_one_thread, source, shortlists, profile.verification)
        runs[name, "all"] = partial(
            rerank_batch,
            source,
            shortlists,
            source,
            RerankOptions.of(profile, top_n=max(map(len, shortlists.values())), workers=cores),
        )
        found = _in_one_thread(source, few, profile.verification)
        inliers[name] = sum(v.inliers for v in found) / len(found)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            seconds = medians({f"{name}\n{where}": run for (name, where), run in runs.items()}, args.rounds)
    finally:
        cv2.setNumThreads(threads)
    for source in opened.values():
        source.close()
    return _rows(seconds, {name: few if name in PEERS else shortlists for name in (*PEERS, *_OURS)}, inliers)


def _rows(
    seconds: Mapping[str, float], shortlists: Mapping[str, Shortlists], inliers: Mapping[str, float]
) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name, lists in shortlists.items():
        pairs = sum(map(len, lists.values()))
        row: Row = {"pairs": pairs, "mean_inliers": inliers[name]}
        rows[name] = row | {where: pairs / seconds[f"{name}\n{where}"] for where in ("one", "all")}
    for row in rows.values():
        row["ratio"] = {where: row[where] / rows[_PUBLISHED][where] for where in ("one", "all")}
    return rows


def _in_one_thread(store: FeatureStore, shortlists: Shortlists, config: VerificationConfig) -> list[Verification]:
    out = []
    for query, ids in shortlists.items():
        verifier = PairVerifier(store.get(query), config=config)
        out += [verifier(store.get(image)) for image in ids]
    return out


def _features(args: argparse.Namespace) -> dict[str, LocalFeatures]:
    """Return the images that have as many features as asked, in the order of their collection."""
    if args.features is not None:
        with FeatureStore.open(args.features, readonly=True) as store:
            found = dict(store.items())
    else:
        data = data_folder(args.data)
        _, found = model_system(args.model).ranked(sub_rparis(data), data, args.cache)
    return {image: features for image, features in found.items() if len(features) == args.each}


def _print(rows: Mapping[str, Row], parts: Mapping[str, float], operations: int, args: argparse.Namespace) -> None:
    columns = [
        "contender",
        "pairs",
        "inliers",
        "pairs / s, 1 core",
        "x",
        f"pairs / s, {usable_cores()} cores",
        "x",
    ]
    table = []
    for name, row in rows.items():
        speed = [f"{row[where]:,.1f}" if row[where] < 100 else f"{row[where]:,.0f}" for where in ("one", "all")]
        ratio = [f"{row['ratio'][where]:,.1f}" for where in ("one", "all")]
        table.append(
            [name, f"{row['pairs']:,}", f"{row['mean_inliers']:.0f}", speed[0], ratio[0], speed[1], ratio[1]]
        )
    print_markdown(f"Pairs verified; x: times the published path; median of {args.rounds} rounds", columns, table)
    floor = parts["matrix product, BLAS"]
    table = [[f"read and decode, {codec}", "", f"{parts[f'read, {codec}']:.0f}", ""] for codec in CODECS]
    for name in _OURS:
        for part in ("preparing", "kernel", "selecting", "estimating", "answer", "whole pair"):
            value = parts[f"{name}: {part}"]
            rate = f"{value / floor:.2f} x the product, {operations / value / 1000:.0f} GFLOP/s"
            table.append([name, part, f"{value:.0f}", rate if part == "kernel" else ""])
    table.append(["matrix product, BLAS", "", f"{floor:.0f}", f"{operations / floor / 1000:.0f} GFLOP/s"])
    title = f"Parts of a pair of {args.each:,} features, one thread"
    print_markdown(title, ["what", "part", "microseconds", "of the matrix product"], table)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/verification.json", data=True, model=True)
    parser.add_argument("--features", type=Path, help="a feature store, instead of the photographs")
    parser.add_argument("--each", type=int, default=_FEATURES, help="features an image must have to take part")
    parser.add_argument("--pairs", type=int, default=7000, help="that ours verify in a round")
    parser.add_argument("--peer-pairs", type=int, default=140, help="that the others verify in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of few pairs: does it run?")
    args = parser.parse_args(argv)
    if args.quick:
        args.pairs, args.peer_pairs, args.rounds = min(args.pairs, 40), min(args.peer_pairs, 8), 1
    if min(args.each, args.pairs, args.peer_pairs, args.rounds) < 1:
        parser.error("--each, --pairs, --peer-pairs and --rounds must be at least 1")
    return args


if __name__ == "__main__":
    main()
