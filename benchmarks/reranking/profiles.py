"""What each profile costs and brings: one table for all profiles and models.

    python -m benchmarks.reranking.profiles [--model delf-r18 delf-r50] [--profile fast default large delf]
        [--scales] [--data DIR]

For each pair: seconds a photograph (the median over `--timed` photographs of 1024 pixels or so, from file to
features), bytes a photograph as stored (the profile's codec), and Sub-RParis with every image verified and ranked
by the rule that belongs to the model: mAP Medium and Hard, means over seeds of RANSAC. A profile that is not the
model's own lends its extraction and verification only. With --scales the rows are input sizes and scales instead,
the rest by the first profile: the evidence behind the defaults, which were compared on these photographs. Features
are cached, results are written after each row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import data_folder, options_parser, print_rows, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import ranked_by_rules, verify_all
from benchmarks.revisited.sub_rparis import searched
from benchmarks.systems import model_system
from delf_engine import AsmkIndex, Codebook, Extractor, LocalFeatures, load_profile
from delf_engine.config import ExtractionConfig, Profile
from delf_engine.evaluation import GroundTruth
from delf_engine.storage.codec import encode

_QUARTER = (0.25, 0.35355339, 0.5, 0.70710678)
_SCALES: dict[str, dict[str, Any]] = {
    "as the profile says": {},
    "1024 px, 0.25 to 1": {"scales": (*_QUARTER, 1.0)},
    "1024 px, 0.35 to 0.71": {"scales": _QUARTER[1:]},
    "1024 px, 0.25 to 0.5": {"scales": _QUARTER[:3]},
    "800 px, 0.25 to 1": {"max_image_size": 800, "scales": (*_QUARTER, 1.0)},
    "1024 px, 0.25 to 0.71, bilinear": {"resize": "bilinear"},
    "1024 px, the paper's seven": {"scales": (*_QUARTER, 1.0, 1.4142135, 2.0), "resize": "bilinear"},
}


_COLUMNS = {
    "model": "{model}",
    "profile": "{profile}",
    "s a photograph": "{seconds:.3f}",
    "features": "{features:.0f}",
    "bytes": "{bytes:.0f}",
    "by": "{by}",
    "Medium": "{medium[mean_ap]:.1f}",
    "Hard": "{hard[mean_ap]:.1f}",
    "by similarity, no geometry": "{similarity[medium]:.1f} / {similarity[hard]:.1f}",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    data = data_folder(args.data)
    truth = sub_rparis(data)
    rows: list[dict[str, Any]] = []
    for model in args.model:
        for name, profile in _profiles(args).items():
            rows.append(_row(model, name, profile, truth, data, args))
            print_rows(f"Sub-RParis, {len(truth)} queries, {len(truth.names)} images", rows, _COLUMNS)
            write_json(args.out, {"queries": len(truth), "images": len(truth.names), "rows": rows})


def _profiles(args: argparse.Namespace) -> dict[str, Profile]:
    if not args.scales:
        return {name: load_profile(name) for name in args.profile}
    first = load_profile(args.profile[0])
    return {
        name: first.model_copy(
            update={"extraction": ExtractionConfig(**{**first.extraction.model_dump(), **changes})}
        )
        for name, changes in _SCALES.items()
    }


def _row(
    model: str, name: str, profile: Profile, truth: GroundTruth, data: Path, args: argparse.Namespace
) -> dict[str, Any]:
    system = model_system(model, config=profile.extraction)
    extractor, ranking = system.extract, system.profile.ranking
    assert isinstance(extractor, Extractor)
    queries, gallery = system.ranked(truth, data, args.cache)
    done = verify_all(
        queries,
        gallery,
        verification=profile.verification,
        ranking=ranking,
        seeds=args.seeds,
        title=f"{model}, {name}",
    )
    first = _candidates(system.codebook, profile, queries, gallery) or done.first_scores()
    figures = ranked_by_rules(first, done, truth)
    return {
        "model": model,
        "profile": name,
        "precision": extractor.precision,
        "seconds": _seconds(extractor, [data / "paris" / f"{n}.jpg" for n in truth.names[: args.timed]]),
        "features": statistics.mean(map(len, gallery.values())),
        "bytes": _bytes(gallery, profile.storage.codec),
        "by": ranking.score,
        "similarity": {setup: figures["similarity"][setup]["mean_ap"] for setup in ("medium", "hard")},
        **figures[ranking.score],
    }


def _candidates(
    path: Path | None,
    profile: Profile,
    queries: Mapping[str, LocalFeatures],
    gallery: Mapping[str, LocalFeatures],
) -> dict[str, list[tuple[str, float]]] | None:
    """Return the ranking by ASMK, whose scores break ties, if a codebook travels with the model."""
    if path is None:
        return None
    return searched(AsmkIndex(Codebook.load(path), profile.asmk), queries, gallery)[0]


def _seconds(extractor: Extractor, photos: Sequence[Path]) -> float:
    extractor(photos[0])
    times = []
    for path in photos:
        start = time.perf_counter()
        extractor(path)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _bytes(gallery: Mapping[str, LocalFeatures], codec: Any) -> float:
    return statistics.mean(len(encode(f, codec, name.encode())) for name, f in gallery.items())


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/profiles.json", data=True)
    parser.add_argument("--model", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--profile", nargs="+", default=["fast", "default", "large", "delf"])
    parser.add_argument("--scales", action="store_true", help="rows are input sizes and scales")
    parser.add_argument("--seeds", type=int, default=3, help="of RANSAC")
    parser.add_argument("--timed", type=int, default=20, help="photographs that are timed")
    args = parser.parse_args(given)
    if min(args.seeds, args.timed) < 1:
        parser.error("--seeds and --timed must be above 0")
    return args


if __name__ == "__main__":
    main()
