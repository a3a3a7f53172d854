"""Results of benchmark runs that never were: plain values with every key, from random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

LABELS = ("easy", "hard", "junk", "negative")
SETUPS = ("easy", "medium", "hard")
NEGATIVES = {0: 9, 3: 4000, 4: 2000, 5: 900, 6: 300, 7: 80, 8: 20, 11: 5, 15: 2, 31: 1}  # pairs by inliers


def benchmark_result(queries: Sequence[str], images: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """A run of three methods, one of them re-ranking another; the last query has no positive in Hard."""
    rng = random.Random(seed)
    methods = [
        _method(rng, "global descriptor", None, queries, lift=0.0),
        _method(rng, "ASMK*", None, queries, lift=8.0),
        _method(rng, "ASMK* + verification", "ASMK*", queries, lift=14.0),
    ]
    best = methods[-1]["name"]
    medium = methods[-1]["setups"]["medium"]["average_precision"]
    return {
        "title": "RParis6k, revisited protocol",
        "command": "python benchmarks/rparis.py --model delf-r18 --out result.json",
        "date": "2026-01-31 12:00 UTC",
        "machine": {"cpu": "Some CPU, 16 cores", "memory_gb": 128, "gpu": None},
        "dataset": {
            "name": "RParis6k",
            "ground_truth": {"path": "revisited/gnd_rparis6k.pkl", "sha256": "0123456789abcdef" * 4},
            "queries": len(queries),
            "images": 6322,
            "distractors": 0,
            "missing": {"images": [], "queries": []},
        },
        "configuration": {
            "delf-r18": {
                "codebook": {"path": "c.safetensors", "trained_on": "photographs", "words": 65536},
                "profile": {
                    "verification": {"model": "affine", "min_inliers": 30, "error_px": 24.0},
                    "reranking": {"top_n": 100, "second": {"min_inliers": 20}},
                },
                "layers": [1, 2, None, True],
            }
        },
        "methods": methods,
        "details": {
            best: {
                "medium": {
                    query: _ranking(rng, images) for query in sorted(medium, key=lambda q: (medium[q], q))[:12]
                }
            }
        },
        "missed": {best: {"medium": {}}},
        "queries": {
            query: {"box": [60.0, 40.0, 700.5, 640.25], "positives": {"easy": 12, "medium": 30, "hard": 18}}
            for query in queries
        },
        "inliers": {
            best: {
                "positives": [int(rng.lognormvariate(3.6, 1.1)) for _ in range(3000)],
                "negatives": [inliers for inliers, pairs in NEGATIVES.items() for _ in range(pairs)],
            }
        },
        "stages": [
            _stage("extraction", 8041.5, 6392, 2000, 2450.0),
            _stage("ASMK* index", 61.25, 6322, 0, 1890.0),
            _stage("ASMK* search", 0.875, 70, 0, None),
            _stage("verification", 188.0, 7000, 7000, 1200.0),
        ],
        "published": [
            {
                "system": "DELF-ASMK* + spatial verification",
                "dataset": "RParis",
                "medium": 76.9,
                "hard": 55.4,
                "source": "Radenović et al., CVPR 2018",
            },
            {"system": "HOW R50", "dataset": "RParis", "medium": 81.6, "hard": 62.4, "source": "Tolias et al."},
        ],
        "notes": ["Nothing was trained on the photographs of this data set."],
    }  # fmt: skip


def _method(
    rng: random.Random, name: str, parent: str | None, queries: Sequence[str], lift: float
) -> dict[str, Any]:
    setups: dict[str, Any] = {}
    for setup, level in zip(SETUPS, (74.0, 60.0, 38.0), strict=True):
        ap: dict[str, float | None] = {
            query: min(max(rng.gauss(level + lift, 22.0), 0.4), 100.0) for query in queries
        }
        if setup == "hard" and queries:
            ap[queries[-1]] = None
        values = [value for value in ap.values() if value is not None]
        mean = sum(values) / len(values) if values else None
        setups[setup] = {
            "mean_ap": mean,
            "interval_95": None if mean is None else [mean - 4.5, mean + 4.25],
            "queries": len(values),
            "mean_precision": {"1": 92.5, "5": 88.125, "10": 85.0},
            "average_precision": ap,
        }
    changes = {
        "easy": {"difference": 0.5, "low": -0.75, "high": 1.75},
        "medium": {"difference": 4.25, "low": 2.5, "high": 6.0},
        "hard": {"difference": -2.0, "low": -3.5, "high": -0.5},
    }
    return {
        "name": name,
        "parent": parent,
        "seconds_per_query": 0.0125 if parent is None else 2.68,
        "setups": setups,
        "against_parent": None if parent is None else changes,
    }


def _stage(name: str, seconds: float, items: int, cached: int, peak_mb: float | None) -> dict[str, Any]:
    stage = {"name": name, "seconds": seconds, "items": items, "cached": cached, "peak_mb": peak_mb}
    return {**stage, "timed": items - cached}


def _ranking(rng: random.Random, images: Sequence[str]) -> list[dict[str, Any]]:
    chosen = [rng.choice(images) for _ in range(10)]
    labels = rng.choices(LABELS, (2, 2, 1, 6), k=10)
    inliers = sorted((rng.randrange(4, 90) for _ in range(10)), reverse=True)
    return [
        {"id": name, "score": round(n / 97, 4), "inliers": n, "label": label}
        for name, n, label in zip(chosen, inliers, labels, strict=True)
    ]
