"""What each profile costs and brings: one table for all profiles and models.

    python -m benchmarks.reranking.profiles [--model delf-r18 delf-r50] [--profile fast default large delf]
        [--data DIR]

For each pair: seconds a photograph (the median over `--timed` photographs of 1024 pixels or so, from file to
features), bytes a photograph as stored (the profile's codec), and Sub-RParis with every image verified and ranked
by the rule that belongs to the model: mAP Medium and Hard, means over seeds of RANSAC. A profile that is not the
model's own lends its extraction and verification only. Features are cached, results are written after each row.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import data_folder, print_table, rank_features, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import ranked_by_rules, verify_all
from delf_engine import AsmkIndex, Codebook, Extractor, LocalFeatures, load_profile
from delf_engine.config import Profile
from delf_engine.evaluation import GroundTruth
from delf_engine.model import codebook_path
from delf_engine.storage.codec import encode


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write JSON."""
    args = _arguments(arguments)
    data = data_folder(args.data)
    truth = sub_rparis(data)
    rows: list[dict[str, Any]] = []
    for model in args.model:
        for profile in args.profile:
            rows.append(_row(model, profile, truth, data, args))
            write_json(args.out, {"queries": len(truth), "images": len(truth.names), "rows": rows})
    columns = ["model", "profile", "s a photograph", "features", "bytes", "by", "Medium", "Hard"]
    table = [
        [
            row["model"],
            row["profile"],
            f"{row['seconds']:.3f}",
            f"{row['features']:.0f}",
            f"{row['bytes']:.0f}",
            row["by"],
            *(f"{row[s]['mean_ap']:.1f}" for s in ("medium", "hard")),
        ]
        for row in rows
    ]
    print_table(f"Sub-RParis, {len(truth)} queries, {len(truth.names)} images", columns, table)


def _row(model: str, name: str, truth: GroundTruth, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    extractor = Extractor.from_pretrained(model, profile=name)
    assert extractor.info is not None
    profile = load_profile(name)
    ranking = load_profile(extractor.info.profile).ranking
    identity = f"{extractor.info.identity} {extractor.config.model_dump_json()}"
    queries, gallery = rank_features(extractor, identity, extractor.dim, truth, data, args.cache)
    done = verify_all(
        queries,
        gallery,
        verification=profile.verification,
        ranking=ranking,
        seeds=args.seeds,
        title=f"{model}, {name}",
    )
    first = _candidates(model, profile, queries, gallery) or done.first_scores()
    figures = ranked_by_rules(first, done, truth)[ranking.score]
    return {
        "model": model,
        "profile": name,
        "precision": extractor.precision,
        "seconds": _seconds(extractor, [data / "paris" / f"{n}.jpg" for n in truth.names[: args.timed]]),
        "features": statistics.mean(map(len, gallery.values())),
        "bytes": _bytes(gallery, profile.storage.codec),
        "by": ranking.score,
        **figures,
    }


def _candidates(
    model: str, profile: Profile, queries: Mapping[str, LocalFeatures], gallery: Mapping[str, LocalFeatures]
) -> dict[str, list[tuple[str, float]]] | None:
    """Return the ranking by ASMK, whose scores break ties, if a codebook travels with the model."""
    path = codebook_path(model)
    if path is None:
        return None
    index = AsmkIndex(Codebook.load(path), profile.asmk)
    index.add(list(gallery), list(gallery.values()))
    found = zip(queries, index.search_many(list(queries.values()), len(index)), strict=True)
    return {query: list(zip(ids, scores.tolist(), strict=True)) for query, (ids, scores) in found}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder that holds paris/ and revisited/")
    parser.add_argument("--model", nargs="+", default=["delf-r18", "delf-r50"])
    parser.add_argument("--profile", nargs="+", default=["fast", "default", "large", "delf"])
    parser.add_argument("--seeds", type=int, default=3, help="of RANSAC")
    parser.add_argument("--timed", type=int, default=20, help="photographs that are timed")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"))
    parser.add_argument("--out", type=Path, default=Path("out/profiles.json"))
    args = parser.parse_args(given)
    if min(args.seeds, args.timed) < 1:
        parser.error("--seeds and --timed must be above 0")
    return args


if __name__ == "__main__":
    main()
