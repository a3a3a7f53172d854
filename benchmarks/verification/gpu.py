"""Pairs verified in batches on a card, beside the CPU's path in the same run, the floor, and the distance to it.

    python -m benchmarks.verification.gpu [--device cuda] [--features STORE] [--seconds 10] [--small]

Ten queries are verified with 100 candidates each, from features that lie on the card already: a batch is the
candidates of one query, or of all ten. Features are the first 400 of a store, or without one random ones, where
each image sees a part of the next. The CPU's path is `PairVerifier` in one thread; agreement is that of both on
the pairs that it had time for. "fine_matching": ten pairs of 4,000 fine features in one batch, and one by one.

The floor is what the product of descriptors takes at least: they are read, similarities are written and read once,
and each costs a multiplication and an addition a dimension, at the rates of a large copy and of a large float32
product of the same card, measured here. Of one batch it is said how many kernels run, and for how long: the rest
is the host's. ``--device cpu --small`` runs all of it in seconds where there is no card; its figures mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import card_of, options_parser, print_table, write_json
from delf_engine import LocalFeatures
from delf_engine.config import FineConfig
from delf_engine.matching.batched import match_codes
from delf_engine.model.device import choose_device
from delf_engine.storage import FeatureStore
from delf_engine.verification import BatchVerifier, PairVerifier, Verification, batched, verify_features
from delf_engine.verification.fine import FinePair

Pair = tuple[LocalFeatures, LocalFeatures]

_QUERIES, _FINE, _SIZE = 10, 10, (1024, 683)
_PEAK = {"cuda": (1 << 28, 8192), "cpu": (1 << 22, 512)}  # floats that are copied, and the side of a matrix


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write JSON."""
    parser = options_parser(__doc__, "out/verification_gpu.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--features", type=Path, help="a feature store")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure")
    parser.add_argument("--small", action="store_true", help="few and small images, to see that it runs")
    args = parser.parse_args(argv)
    images, features, each, seconds = (30, 60, 5, 0.1) if args.small else (400, 1000, 100, args.seconds)
    device = choose_device(args.device)
    batched.CARDS.add(device.type)
    several = _stored(args.features, images) if args.features else _random(images, features)
    queries = _shortlists(several, each)
    pairs = [pair for query in queries for pair in query]
    verifier = BatchVerifier(device=args.device)
    found = verifier(pairs)  # fills the shard and warms up

    def one_by_one() -> int:
        for query in queries:
            verifier(query)
        return len(pairs)

    rates = {
        f"{each} pairs a batch": _rate(one_by_one, seconds),
        f"{len(pairs)} pairs a batch": _rate(lambda: len(verifier(pairs)), seconds),
    }
    expected, on_cpu = _by_cpu(queries, seconds)
    off = np.array([abs(a.inliers - b.inliers) for a, b in zip(found, expected, strict=False)])
    floor = _floor(device, [(len(a), len(b), a.dim) for a, b in pairs])
    result: dict[str, Any] = {
        **card_of(device),
        "pairs": len(pairs),
        "features": float(np.mean([len(image) for image in several])),
        "pairs_a_second": {**rates, "CPU, one thread": on_cpu},
        "agreement": {"pairs": len(off), "same": float((off == 0).mean()), "largest_difference": int(off.max())},
        "one_batch": _kernels(device, lambda: verifier(queries[0])),
        "fine_matching": _fine(device, 200 if args.small else 4000, seconds),
        "floor": floor,
        "times_the_floor": {name: floor["pairs_a_second"] / rate for name, rate in rates.items()},
    }
    shown = {**result["pairs_a_second"], "floor": floor["pairs_a_second"]}
    rows = [[name, f"{rate:,.0f}"] for name, rate in shown.items()]
    print_table(f"Verification on {result['card']}", ["", "pairs a second"], rows)
    for name in ("driver", "torch", "agreement", "one_batch", "fine_matching", "floor", "times_the_floor"):
        print(f"{name}: {result[name]}")
    write_json(args.out, result)


def _stored(path: Path, count: int) -> list[LocalFeatures]:
    with FeatureStore.open(path, readonly=True) as store:
        return store.get_many(store.ids()[:count])


def _random(count: int, n: int, dim: int = 40) -> list[LocalFeatures]:
    """Return images of which each sees a third of the one before it, somewhat moved, among features of its own."""
    rng = np.random.default_rng(0)
    out: list[LocalFeatures] = []
    for _ in range(count):
        places, scales = rng.uniform(0, _SIZE, (n, 2)), rng.choice([1.4, 2.0, 2.8, 4.0], n)
        descriptors, seen = rng.normal(size=(n, dim)), n // 3
        if out:
            before = out[-1]
            places[:seen] = 0.95 * before.keypoints[-seen:] + rng.normal(30, 8, (seen, 2))
            scales[:seen] = before.scales[-seen:]
            descriptors[:seen] = before.descriptors[-seen:] + rng.normal(0, 0.08, (seen, dim))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        out.append(LocalFeatures(places, scales, np.linspace(1, 0, n), descriptors, _SIZE))  # type: ignore[arg-type]
    return out


def _shortlists(images: Sequence[LocalFeatures], each: int) -> list[list[Pair]]:
    """Return the pairs of each query with the images that follow it, the first again after the last."""
    step = max(1, len(images) // _QUERIES)
    starts = range(0, min(len(images), _QUERIES * step), step)
    return [[(images[q], images[(q + 1 + k) % len(images)]) for k in range(each)] for q in starts]


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Return how many pairs a second `work`, which returns how many it did, verifies."""
    done, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        done += work()
    return done / taken


def _by_cpu(queries: Sequence[Sequence[Pair]], seconds: float) -> tuple[list[Verification], float]:
    """Return the verifications of as many of the first pairs as there is time for, and pairs a second."""
    verify_features(*queries[0][0])  # compiled
    out: list[Verification] = []
    start = time.perf_counter()
    for query in queries:
        if not out or time.perf_counter() - start < seconds:
            verifier = PairVerifier(query[0][0])
            out += [verifier(other) for _, other in query]
    return out, len(out) / (time.perf_counter() - start)


def _fine(device: torch.device, n: int, seconds: float) -> dict[str, Any]:
    """Return pairs of n fine features each, matched a second by the device and by the CPU, and whether alike."""
    query, *others = _random(_FINE + 1, n, 128)
    pairs = [FinePair.of(query, other, FineConfig()) for other in others]

    def on_device() -> list[Any]:
        return match_codes([pair.prepared() for pair in pairs], ratio=FineConfig().ratio, device=device)

    alike = all(np.array_equal(a, pair.matches()) for a, pair in zip(on_device(), pairs, strict=True))
    rates = (_rate(lambda: len(on_device()), seconds / 4), _rate(lambda: len([pairs[0].matches()]), seconds / 4))
    return {"features": n, "pairs_a_second": rates[0], "on_cpu": rates[1], "same_matches": alike}


def _floor(device: torch.device, shapes: Sequence[tuple[int, int, int]]) -> dict[str, float]:
    """Return the floor of a mean pair, of shapes (features of A, of B, dimensions), and the rates it rests on."""
    moved = float(np.mean([4 * ((n + m) * dim + 2 * n * m) for n, m, dim in shapes]))
    operations = float(np.mean([2 * n * m * dim for n, m, dim in shapes]))
    floats, side = _PEAK[device.type]
    x, y = torch.ones(floats, device=device), torch.ones(side, side, device=device)
    bandwidth = 8 * floats / _seconds(device, lambda: x.clone())
    rate = 2 * side**3 / _seconds(device, lambda: y @ y)
    return {
        "bytes_a_pair": moved,
        "flop_a_pair": operations,
        "bytes_a_second": bandwidth,
        "flop_a_second": rate,
        "pairs_a_second": 1 / max(moved / bandwidth, operations / rate),
    }


def _seconds(device: torch.device, work: Callable[[], Any]) -> float:
    """Return the least that one of twenty calls takes, after a warm-up."""
    taken = []
    for _ in range(21):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _kernels(device: torch.device, work: Callable[[], Any]) -> dict[str, float]:
    """Return the milliseconds of a call, and of a card's kernels and copies in it, and how many there are."""
    start = time.perf_counter()
    work()
    out = {"ms": 1e3 * (time.perf_counter() - start)}
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            work()
        on_card = [each for each in record.key_averages() if each.self_device_time_total > 0]
        out["kernels"] = sum(each.count for each in on_card)
        out["kernels_ms"] = sum(each.self_device_time_total for each in on_card) / 1e3
    return out


if __name__ == "__main__":
    main()
