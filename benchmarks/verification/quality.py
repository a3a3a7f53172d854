"""How well each way of verifying ranks: profiles, models, estimators, thresholds, precisions, ranking scores.

    python -m benchmarks.verification.quality [--model delf-r18] [--rows profiles estimators ...] [--seeds 5]

Sub-RParis (11 queries, 238 images; a development set), every image verified, from features that are extracted once
and cached. What `--profile` names extracts them; the rows vary verification and ranking alone:

profiles     [verification] of each shipped profile that has its own
estimators   each estimator of each model, with the default's other settings (fundamental: 8 px)
thresholds   8 to 40 px, of the exhaustive affine verifier and of the homography of the profile ``accurate``;
             4 to 16 px of a fundamental matrix
precision    descriptors compared as float32 and as uint8
scores       each ranking score, with and without the blend, on the main ways of verifying

Images are ranked by the number of inliers unless a row says otherwise; equal ones by the number of tentative
matches. The time of a row is that of one pair by the clock, all cores at work and reading not counted. Intervals
are 95 % over resampled queries. Configurations that draw at random run with `--seeds` seeds, 0 and up.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.common import data_folder, options_parser, print_markdown, sub_rparis, write_json
from benchmarks.revisited.ranking_rules import Pass, Row, compare, ranker_of, row_of, verify_all
from benchmarks.revisited.sub_rparis import with_interval
from benchmarks.systems import model_system
from delf_engine import LocalFeatures, load_profile
from delf_engine.config import RankingConfig, VerificationConfig
from delf_engine.evaluation import SETUPS, GroundTruth
from delf_engine.verification.models import ESTIMATORS

GROUPS = ("profiles", "estimators", "thresholds", "precision", "scores")
_PROFILES = ("default", "accurate", "fast", "delf", "d2r", "delg")
_THRESHOLDS_PX = (8.0, 12.0, 16.0, 24.0, 32.0, 40.0)
_EPIPOLAR_PX = (4.0, 8.0, 16.0)
_FUNDAMENTAL_PX = 8.0
_BLEND = 0.3
_MAIN = ("default", "accurate", "delf")
#: What all others are compared with.
_FIRST = "profile default"


class Way(NamedTuple):
    """A row: how pairs are verified, and by what the images are ranked."""

    verification: VerificationConfig
    ranking: RankingConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows asked for, print them and their differences, write JSON."""
    args = _arguments(argv)
    data = data_folder(args.data)
    truth = sub_rparis(data, distractors=args.distractors)
    system = model_system(args.model, profile=args.profile)
    rows = measured(ways(args.rows), *system.ranked(truth, data, args.cache), truth, seeds=args.seeds)
    differences = best_against_first(rows, args.best)
    _print(rows, differences, f"{args.model}: {len(truth)} queries, {len(truth.names)} images, every one verified")
    result = {
        "model": args.model,
        "identity": system.identity,
        "queries": len(truth),
        "images": len(truth.names),
        "seeds": args.seeds,
        "rows": rows,
        "differences": differences,
    }
    write_json(args.out, result)


def ways(groups: Sequence[str]) -> dict[str, Way]:
    """Return the rows of some groups by name; the default is always the first."""
    default = load_profile()
    inliers = default.ranking.model_copy(update={"score": "inliers", "blend": 0.0})
    found: dict[str, VerificationConfig] = {_FIRST: default.verification}
    if "profiles" in groups:
        found |= {f"profile {name}": load_profile(name).verification for name in _PROFILES}
    if "estimators" in groups:
        for model, estimator in ESTIMATORS:
            changes = {"model": model, "estimator": estimator}
            pixels = {"residual_px": _FUNDAMENTAL_PX} if model == "fundamental" else {}
            found[f"{model}, {estimator}"] = _changed(default.verification, **changes, **pixels)
    if "thresholds" in groups:
        found |= _thresholds(default.verification)
    if "precision" in groups:
        for precision in ("float32", "uint8"):
            found[f"default, {precision}"] = _changed(default.verification, precision=precision)
    rows = {name: Way(config, inliers) for name, config in found.items()}
    if "scores" in groups:
        rows |= {
            f"{name}, by {ranking.score}{f' + {ranking.blend:g} similarity' if ranking.blend else ''}": Way(
                load_profile(name).verification, ranking
            )
            for name in _MAIN
            for ranking in _rankings(inliers)
        }
    return rows


def _changed(config: VerificationConfig, **changes: Any) -> VerificationConfig:
    # Validated again, which a plain copy is not: not every estimator goes with every model.
    return VerificationConfig(**{**config.model_dump(), **changes})


def _thresholds(default: VerificationConfig) -> dict[str, VerificationConfig]:
    homography = load_profile("accurate").verification
    fundamental = _changed(default, model="fundamental", estimator="ransac")
    rows = {f"affine, exhaustive, {px:g} px": _changed(default, residual_px=px) for px in _THRESHOLDS_PX}
    rows |= {f"homography, {px:g} px": _changed(homography, residual_px=px) for px in _THRESHOLDS_PX}
    return rows | {f"fundamental, {px:g} px": _changed(fundamental, residual_px=px) for px in _EPIPOLAR_PX}


def _rankings(plain: RankingConfig) -> list[RankingConfig]:
    scores = ("inliers", "effective", "weighted")
    scored = [plain.model_copy(update={"score": s, "blend": b}) for s in scores for b in (0.0, _BLEND)]
    return [*scored, plain.model_copy(update={"score": "similarity"})]


def measured(
    rows: Mapping[str, Way],
    queries: Mapping[str, LocalFeatures],
    gallery: Mapping[str, LocalFeatures],
    truth: GroundTruth,
    *,
    seeds: int,
) -> dict[str, Row]:
    """Return the figures of each row (`ranking_rules.row_of`) with its configuration and seconds a pair.

    Ways that answer alike, such as the same one under other ranking scores, are verified once.
    """
    passes: dict[str, Pass] = {}
    out = {}
    for name, (verification, ranking) in rows.items():
        drawn = verification.estimator != "exhaustive"
        # From how many inliers on it is the same place changes no ranking, and samples mean nothing without draws.
        ignored = {"min_inliers"} if drawn else {"min_inliers", "max_iterations", "confidence"}
        key = verification.model_dump_json(exclude=ignored)
        if key not in passes:
            passes[key] = verify_all(
                queries,
                gallery,
                verification=verification,
                ranking=load_profile().ranking,
                seeds=seeds if drawn else 1,
                title=name,
            )
        done = passes[key]
        rankers = [ranker_of(done.first_scores(), found, ranking) for found in done.seeds]
        row = row_of(truth, rankers, done.seconds_a_pair * len(gallery))
        row |= {"seconds_a_pair": done.seconds_a_pair, "verification": verification.model_dump()}
        out[name] = row | {"ranking": ranking.model_dump()}
    return out


def best_against_first(rows: Mapping[str, Row], count: int) -> list[dict[str, Any]]:
    """Compare the rows with the highest mean of Medium and Hard with the default, query by query."""
    what = ("verification", "ranking")
    others = [name for name, row in rows.items() if any(row[k] != rows[_FIRST][k] for k in what)]
    others.sort(key=lambda name: -sum(rows[name][setup]["mean_ap"] for setup in ("medium", "hard")))
    return [
        {"row": name, **{s: c.to_dict() for s, c in compare(rows[name], rows[_FIRST]).items()}}
        for name in others[:count]
    ]


def _print(rows: Mapping[str, Row], differences: Sequence[Mapping[str, Any]], title: str) -> None:
    columns = ["row", "Easy / Medium / Hard", "spread over seeds", "ms a pair"]
    table = [
        [
            name,
            " / ".join(f"{row[s]['mean_ap']:.1f}" for s in SETUPS),
            " / ".join(f"{row[s]['spread']:.1f}" for s in SETUPS) if row["seeds"] > 1 else "",
            f"{1000 * row['seconds_a_pair']:.2f}",
        ]
        for name, row in rows.items()
    ]
    print_markdown(title, columns, table)
    gaps = [
        [d["row"], *(with_interval(*(d[s][k] for k in ("difference", "low", "high")), sign="+") for s in SETUPS)]
        for d in differences
    ]
    if gaps:
        columns = [f"best rows - {_FIRST}", *(f"{s.capitalize()} [95 %]" for s in SETUPS)]
        print_markdown("Differences of mAP, paired over queries", columns, gaps)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options_parser(__doc__, "out/verification_quality.json", data=True, model=True)
    parser.add_argument("--profile", default="default", help="that extracts the features: name or path")
    parser.add_argument("--distractors", action="store_true", help="add the unrelated photographs to the gallery")
    parser.add_argument("--rows", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=1, help="of what draws at random")
    parser.add_argument("--best", type=int, default=5, help="rows that are compared with the default")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.best < 0:
        parser.error("--seeds must be at least 1, --best at least 0")
    return args


if __name__ == "__main__":
    main()
