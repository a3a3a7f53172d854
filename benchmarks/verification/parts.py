"""Where the time of one pair goes: each part in turn over the same pairs, in one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.verification.pairs import Framed, framed_matches, match
from delf_engine import LocalFeatures
from delf_engine.config import VerificationConfig
from delf_engine.matching import Matches, PreparedDescriptors
from delf_engine.storage import FeatureStore
from delf_engine.verification import PairVerifier
from delf_engine.verification.models import estimate

__all__ = ["Sample", "medians", "parts_of_a_pair", "sample"]


class Sample(NamedTuple):
    """A pair as each part finds it: read, made ready, matched."""

    features: tuple[LocalFeatures, LocalFeatures]
    prepared: tuple[PreparedDescriptors, PreparedDescriptors]
    matched: Matches
    framed: Framed
    verifier: PairVerifier


def sample(
    features: Mapping[str, LocalFeatures], pairs: Sequence[tuple[str, str]], config: VerificationConfig
) -> list[Sample]:
    """Return pairs with all that their parts take."""
    found = []
    for first, second in pairs:
        a, b = features[first], features[second]
        prepared = (
            PreparedDescriptors(a.descriptors, "A", config.precision),
            PreparedDescriptors(b.descriptors, "B", config.precision),
        )
        matched = match(*prepared, config)
        framed = framed_matches(a, b, matched, config.reference_size)
        found.append(Sample((a, b), prepared, matched, framed, PairVerifier(a, config=config)))
    return found


def parts_of_a_pair(
    features: Mapping[str, LocalFeatures],
    stores: Mapping[str, FeatureStore],
    pairs: Sequence[tuple[str, str]],
    configs: Mapping[str, VerificationConfig],
    *,
    rounds: int,
) -> dict[str, float]:
    """Return the median microseconds of each part of a pair.

    Parameters
    ----------
    features : mapping of id to LocalFeatures
    stores : mapping of codec to FeatureStore
    pairs : sequence of (id, id)
    configs : mapping of name to VerificationConfig
        ``answer`` of each is what is left of the whole pair: framing, counting, and the object that says so.
    rounds : int
        Over all pairs, the parts alternating.
    """
    runs: dict[str, Callable[[], Any]] = {
        f"read, {codec}": lambda store=store: [store.get(image) for _, image in pairs]  # type: ignore[misc]
        for codec, store in stores.items()
    }
    for name, config in configs.items():
        runs |= _runs(name, config, sample(features, pairs, config))
    floats = [(features[a].descriptors, np.ascontiguousarray(features[b].descriptors.T)) for a, b in pairs]
    out = np.empty((len(floats[0][0]), floats[0][1].shape[1]), np.float32)
    runs["matrix product, BLAS"] = lambda: [np.matmul(a, b, out=out) for a, b in floats]
    with threadpool_limits(1):
        found = {name: 1e6 * seconds / len(pairs) for name, seconds in medians(runs, rounds).items()}
    for name in configs:
        parts = sum(found[f"{name}: {part}"] for part in ("preparing", "matching", "estimating"))
        found[f"{name}: selecting"] = found[f"{name}: matching"] - found[f"{name}: kernel"]
        found[f"{name}: answer"] = found[f"{name}: whole pair"] - parts
    return found


def _runs(name: str, config: VerificationConfig, samples: Sequence[Sample]) -> dict[str, Callable[[], Any]]:
    def preparing() -> None:
        for s in samples:
            PreparedDescriptors(s.features[1].descriptors, "B", config.precision).as_columns  # noqa: B018

    def kernel() -> None:
        for s in samples:
            _kernel(*s.prepared)

    def estimating() -> None:
        for s in samples:
            estimate(
                config.model,
                *s.framed.points,
                threshold=config.residual_px,
                max_iterations=config.max_iterations,
                confidence=config.confidence,
                seed=0,
                estimator=config.estimator,
                scales=s.framed.scales,
                similarities=s.matched.similarities,
            )

    return {
        f"{name}: preparing": preparing,
        f"{name}: kernel": kernel,
        f"{name}: matching": lambda: [match(*s.prepared, config) for s in samples],
        f"{name}: estimating": estimating,
        f"{name}: whole pair": lambda: [s.verifier(s.features[1]) for s in samples],
    }


def _kernel(a: PreparedDescriptors, b: PreparedDescriptors) -> Any:
    """Find the nearest neighbours both ways, ties not yet broken."""
    from delf_engine.matching.kernels import best_of

    return best_of(*a.as_rows, *b.as_columns)


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each run over the rounds, which begin with different ones, after a warm-up."""
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        runs[name]()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
