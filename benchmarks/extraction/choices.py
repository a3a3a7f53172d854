"""The evidence behind the defaults: scales and input size.

    python -m benchmarks.extraction.choices scales [--data DIR] [--seeds 3]

The table is measured on Sub-RParis (a development set: nothing was trained on it, these choices were compared on
it). `verification/quality.py` has the geometric model and its threshold, `index/codebook_size.py` the size of the
codebook; `verification/decision.py` fixes the threshold of "same place" on other photographs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import data_folder, print_table, rank_features, sub_rparis, write_json
from delf_engine import Extractor, LocalFeatures, load_profile, verify_features
from delf_engine.config import ExtractionConfig, VerificationConfig
from delf_engine.evaluation import GroundTruth, evaluate
from delf_engine.verification import match_descriptors

Features = Mapping[str, LocalFeatures]

_QUARTER = (0.25, 0.35355339, 0.5, 0.70710678)
_SCALES: dict[str, dict[str, Any]] = {
    "1024 px, 0.25 to 0.71 (default)": {},
    "1024 px, 0.25 to 1": {"scales": (*_QUARTER, 1.0)},
    "1024 px, 0.35 to 0.71": {"scales": _QUARTER[1:]},
    "1024 px, 0.25 to 0.5": {"scales": _QUARTER[:3]},
    "800 px, 0.25 to 1": {"max_image_size": 800, "scales": (*_QUARTER, 1.0)},
    "1024 px, 0.25 to 0.71, bilinear": {"resize": "bilinear"},
    "1024 px, the paper's seven": {"scales": (*_QUARTER, 1.0, 1.4142135, 2.0), "resize": "bilinear"},
}


def main() -> None:
    """Measure one table, print it, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["scales"])
    parser.add_argument("--data", help="folder that holds paris/ and revisited/")
    parser.add_argument("--model", default="delf-r18")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("out/cache"))
    args = parser.parse_args()
    data = data_folder(args.data)
    _scales(args, data)


def _scales(args: argparse.Namespace, data: Path) -> None:
    truth = sub_rparis(data)
    profile = load_profile()
    rows: dict[str, Any] = {}
    for name, changes in _SCALES.items():
        config = ExtractionConfig(**{**profile.extraction.model_dump(), **changes})
        queries, gallery, seconds = _extracted(args, data, truth, config)
        figures = _verified(queries, gallery, truth, profile.verification, args.seeds)
        similarity = _by_similarity(queries, gallery, truth)
        rows[name] = {"similarity": similarity, "inliers": figures, "seconds_per_photograph": seconds}
    columns = ["input and scales", "similarity only, M / H", "every image verified, M / H", "s a photograph"]
    table = [
        [name, _pair(row["similarity"]), _pair(row["inliers"]), f"{row['seconds_per_photograph']:.2f}"]
        for name, row in rows.items()
    ]
    print_table(f"Sub-RParis by scales ({args.model})", columns, table)
    write_json(Path("out/choices_scales.json"), {"model": args.model, "rows": rows})


def _extracted(
    args: argparse.Namespace, data: Path, truth: GroundTruth, config: ExtractionConfig
) -> tuple[Features, Features, float]:
    """Return queries, gallery and the seconds a photograph, measured on ten of them."""
    extractor = Extractor.from_pretrained(args.model, config=config)
    assert extractor.info is not None
    identity = f"{extractor.info.identity} {extractor.config.model_dump_json()}"
    queries, gallery = rank_features(extractor, identity, extractor.network.dim, truth, data, args.cache)
    start = time.perf_counter()
    for name in truth.names[:10]:
        extractor(data / "paris" / f"{name}.jpg")
    return queries, gallery, (time.perf_counter() - start) / 10


def _verified(
    queries: Features, gallery: Features, truth: GroundTruth, config: VerificationConfig, seeds: int
) -> dict[str, float]:
    runs: dict[str, list[float]] = {"medium": [], "hard": []}
    for seed in range(seeds):
        rankings = []
        for query in queries.values():
            inliers = [verify_features(query, f, config=config, seed=seed).inliers for f in gallery.values()]
            rankings.append(np.argsort(-np.array(inliers), kind="stable"))
        for setup, values in runs.items():
            values.append(evaluate(rankings, truth, setup=setup).mean_ap)  # type: ignore[arg-type]
    means = {setup: float(np.mean(values)) for setup, values in runs.items()}
    return means | {f"{setup}_spread": float(np.std(values)) for setup, values in runs.items()}


def _by_similarity(queries: Features, gallery: Features, truth: GroundTruth) -> dict[str, float]:
    """Rank by the sum of cubed similarities over mutual matches, without geometry."""
    rankings: list[Sequence[int]] = []
    for query in queries.values():
        sums = [_cubed(query, features) for features in gallery.values()]
        rankings.append(np.argsort(-np.array(sums), kind="stable").tolist())
    return {s: evaluate(rankings, truth, setup=s).mean_ap for s in ("medium", "hard")}


def _cubed(a: LocalFeatures, b: LocalFeatures) -> float:
    similarities = match_descriptors(a.descriptors, b.descriptors).similarities
    return float((np.clip(similarities, 0, 1) ** 3).sum())


def _pair(row: Mapping[str, float]) -> str:
    return f"{row['medium']:.1f} / {row['hard']:.1f}"


if __name__ == "__main__":
    main()
