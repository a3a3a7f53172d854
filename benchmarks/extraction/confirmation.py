"""The features on photographs that made no choice of them: Strecha's scenes, and planes under known homographies.

    python -m benchmarks.extraction.confirmation [--model delf-r18 --model mine.safetensors] [--data DIR]
        [--weights DIR]

Ours, ALIKED-n16 and RootSIFT, each with 1000 features from the same input (longer side at most 1024 pixels).

Strecha (`verification/strecha.py`): the share of pairs of one scene accepted at the threshold that accepts no pair
of different scenes. Every method is matched by its own rule: ours as its profile says, the others by mutual
nearest neighbours, RootSIFT with the ratio test at 0.8 (Lowe 2004) besides. All are verified with the same model
and residual. Two scores: the number of inliers, and the sum of cubed similarities over the inliers plus 0.3 times
that over all mutual nearest neighbours (that pass the ratio test where there is one). Intervals are 95 % over
resampled photographs. The columns "facade" (castle with entry) and "fountain" (with these two) are pairs kept
apart.

Homographies (`verification/homography.py`): repeatability, matching score and matching accuracy within 8 pixels,
all matched by mutual nearest neighbours.

No setting may be chosen by these figures. One was: the profile's `min_inliers`, set by `verification/decision.py`
on the same scenes; it plays no part here. The model and the residual were chosen on Paris with our features, so
the others may do better with their own (`--residual`).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.common import by_homography, data_folder, options_parser, print_table, write_json
from benchmarks.peers import root_sift
from benchmarks.systems import System, model_systems, peer_system, weights_folder
from benchmarks.verification.homography import PlanarPair, homography_pairs, planar_figures, random_repeatability
from benchmarks.verification.strecha import (
    SCORES,
    Pair,
    View,
    accepted_shares,
    bootstrap_shares,
    labelled_pairs,
    load_views,
    pair_scores,
)
from delf_engine import LocalFeatures, load_profile
from delf_engine.config import VerificationConfig

_INPUT_PX = 1024
_FEATURES = 1000
_LOWE_RATIO = 0.8
_RADIUS_PX = 8.0
_SHORT = {"castle / entry": "facade", "fountain / these": "fountain"}
_PACKAGES = ("numpy", "opencv-python", "pydegensac", "scipy", "torch")


class Method(NamedTuple):
    """Local features, and how they are matched and verified here."""

    system: System
    rule: VerificationConfig


def main() -> None:
    """Measure all methods on both data sets, print the tables, write JSON."""
    args = _arguments()
    data = data_folder(args.data)
    methods = _methods(args, weights_folder(args, data))
    views = load_views(data / "strecha")
    pairs = labelled_pairs(views)
    planes = homography_pairs(data / "homography")
    strecha, samples = _strecha(methods, views, pairs, data, args)
    planar = _homography(methods, planes, data, args)
    differences = _differences(samples)
    config = methods[0].rule
    _print_strecha(strecha, differences, pairs, f"{config.model}, {config.residual_px:g} px, {args.seeds} seeds")
    _print_homography(planar)
    write_json(
        args.out,
        {
            "methods": {s.name: {"identity": s.identity, "rule": rule.model_dump()} for s, rule in methods},
            "features": _FEATURES,
            "seeds": list(range(args.seeds)),
            "bootstrap": {"samples": args.samples, "seed": 0, "unit": "photographs, within their scenes"},
            "versions": {p: version(p) for p in (*_PACKAGES, *(["kornia"] if "aliked" in args.peers else []))},
            "data_sha256": {part: _folder_hash(data / part) for part in ("strecha", "homography")},
            "strecha": strecha,
            "strecha_differences": differences,
            "homography": planar,
        },
    )


def _arguments() -> argparse.Namespace:
    parser = options_parser(__doc__, "out/confirmation.json", data=True)
    parser.add_argument("--weights", help="folder of aliked-n16.safetensors; without it, weights/ beside the data")
    parser.add_argument(
        "--model", action="append", help="name or path of a checkpoint; may be given several times"
    )
    parser.add_argument("--peers", nargs="*", choices=["aliked", "rootsift"], default=["aliked", "rootsift"])
    parser.add_argument("--residual", type=float, help="pixels, instead of the default profile's")
    parser.add_argument("--seeds", type=int, default=3, help="of RANSAC")
    parser.add_argument("--samples", type=int, default=2000, help="of the bootstrap")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that verify pairs")
    args = parser.parse_args()
    if min(args.seeds, args.samples, args.workers) < 1:
        parser.error("--seeds, --samples and --workers must be at least 1")
    if args.residual is not None and not args.residual > 0:
        parser.error("--residual must be positive")
    args.model = list(dict.fromkeys(args.model or ["delf-r18"]))
    return args


def _methods(args: argparse.Namespace, weights: Path) -> list[Method]:
    changes: dict[str, Any] = {"residual_px": args.residual} if args.residual else {}
    geometry = by_homography(load_profile().verification).model_copy(update=changes)
    plain = geometry.model_copy(update={"mutual": True, "ratio": None, "max_distance": None})
    peers = []
    if "aliked" in args.peers:  # first of all: its weights may be missing
        peers.append(Method(peer_system("aliked", None, weights), plain))
    if "rootsift" in args.peers:
        identity = f"RootSIFT 1000 at {_INPUT_PX}, OpenCV {cv2.__version__}"
        extract = partial(root_sift, max_image_size=_INPUT_PX)
        sift = replace(peer_system("rootsift", None, weights), identity=identity, extract=extract)
        peers.append(Method(sift, plain.model_copy(update={"ratio": _LOWE_RATIO})))
    ours = []
    for system in model_systems(args.model, None, None):
        own = {key: getattr(system.profile.verification, key) for key in ("mutual", "ratio", "max_distance")}
        ours.append(Method(system, geometry.model_copy(update=own)))
    return [*ours, *peers]


def _extracted(
    method: Method, names: Sequence[str], data: Path, part: str, cache: Path
) -> dict[str, LocalFeatures]:
    return method.system.features_of(part, {name: data / part / name for name in names}, cache)


def _strecha(
    methods: Sequence[Method], views: Sequence[View], pairs: Sequence[Pair], data: Path, args: argparse.Namespace
) -> tuple[dict[str, Any], dict[tuple[str, str], npt.NDArray[np.float64]]]:
    rows: dict[str, Any] = {}
    samples = {}
    for method in methods:
        features = _extracted(method, [view.name for view in views], data, "strecha", args.cache)
        scores = pair_scores(
            features, views, pairs, method.rule, seeds=args.seeds, title=method.system.name, workers=args.workers
        )
        rows[method.system.name] = {}
        for score in SCORES:
            shares, limits = accepted_shares(scores[score], pairs)
            drawn = bootstrap_shares(scores[score], pairs, views, samples=args.samples)
            samples[method.system.name, score] = drawn
            interval = np.quantile(drawn, [0.025, 0.975]).tolist()
            rows[method.system.name][score] = {
                "accepted": shares,
                "interval_95": interval,
                "accepted_above": limits,
            }
    return rows, samples


def _differences(samples: Mapping[tuple[str, str], npt.NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Compare each method with each that comes after it, on the same resamples of the photographs."""
    found = []
    for score in SCORES:
        for first, second in itertools.combinations([m for m, s in samples if s == score], 2):
            gaps = samples[first, score] - samples[second, score]
            low, high = np.quantile(gaps, [0.025, 0.975])
            entry = {"score": score, "first": first, "second": second}
            found.append(entry | {"mean": float(gaps.mean()), "low": float(low), "high": float(high)})
    return found


def _homography(
    methods: Sequence[Method], planes: list[PlanarPair], data: Path, args: argparse.Namespace
) -> dict[str, Any]:
    names = list(dict.fromkeys(name for plane in planes for name in (plane.first, plane.second)))
    rows: dict[str, Any] = {}
    for method in methods:
        features = _extracted(method, names, data, "homography", args.cache)
        figures = planar_figures(features, planes, radius=_RADIUS_PX)
        rows[method.system.name] = {"pairs": figures, "scenes": _by_scene(planes, list(figures.values()))}
    chance = [
        {
            "features": float(_FEATURES),
            "repeatability": random_repeatability(
                plane,
                features[plane.first].image_size,
                features[plane.second].image_size,
                count=_FEATURES,
                radius=_RADIUS_PX,
            ),
        }
        for plane in planes
    ]
    rows["points at random"] = {"scenes": _by_scene(planes, chance)}
    return rows


def _by_scene(planes: Sequence[PlanarPair], figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Average the figures over the pairs of each scene."""
    scenes: dict[str, list[Mapping[str, float]]] = {}
    for plane, values in zip(planes, figures, strict=True):
        scenes.setdefault(plane.scene, []).append(values)
    return {s: {key: float(np.mean([v[key] for v in many])) for key in many[0]} for s, many in scenes.items()}


def _print_strecha(
    rows: Mapping[str, Any], differences: Sequence[Mapping[str, Any]], pairs: Sequence[Pair], how: str
) -> None:
    counts = {kind: sum(pair.kind == kind for pair in pairs) for kind in dict.fromkeys(p.kind for p in pairs)}
    groups = next(iter(rows.values()))[SCORES[0]]["accepted"]
    columns = ["features, score", *(_SHORT.get(group, group) for group in groups), "95 % of all", "above"]
    table = []
    for name, scores in rows.items():
        for score, row in scores.items():
            shares = [f"{100 * value:.1f}" for value in row["accepted"].values()]
            low, high = (100 * end for end in row["interval_95"])
            ends = dict.fromkeys(f"{end(row['accepted_above']):.3g}" for end in (min, max))
            table.append([f"{name}, {score}", *shares, f"{low:.1f} - {high:.1f}", " - ".join(ends)])
    title = (
        f"Strecha: % of pairs accepted at no false accept among {counts['different']}; {how}; angles in degrees"
    )
    print_table(title, columns, table)
    gaps = [
        [f"{d['first']} - {d['second']}", d["score"], *(f"{100 * d[k]:+.1f}" for k in ("mean", "low", "high"))]
        for d in differences
    ]
    if gaps:
        title = f"Differences of the share of all {counts['same']}, over resampled photographs"
        print_table(title, ["methods", "score", "mean", "2.5 %", "97.5 %"], gaps)


def _print_homography(rows: Mapping[str, Any]) -> None:
    measures = ("repeatability", "matching_score", "matching_accuracy")
    for scene in next(iter(rows.values()))["scenes"]:
        table = []
        for name, row in rows.items():
            figures = row["scenes"][scene]
            shares = [f"{100 * figures[m]:.1f}" if m in figures else "" for m in measures]
            table.append([name, f"{figures['features']:.0f}", *shares])
        title = f"{scene}: %, within {_RADIUS_PX:g} pixels of the known homography"
        print_table(title, ["features", "count", *(m.replace("_", " ") for m in measures)], table)


def _folder_hash(folder: Path) -> str:
    """Return one SHA-256 over the names and the bytes of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
