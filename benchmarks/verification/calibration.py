"""How probable is it that two photographs show the same place? Fits the calibration of a checkpoint and checks it.

    python -m benchmarks.verification.calibration --data DATA --model delf-r18 [--profile P]
        [--write FILE.calibration.json]

Fitted on Strecha's scenes and on unrelated photographs: views of one scene less than 60 degrees apart are the same
place; Herz-Jesu and the three other scenes are different ones, and so are scenes and unrelated photographs
(castle, entry and fountain among each other are left out, see `verification/decision.py`). Each pair of views
counts three times: as a whole, and with a random box cut out of either one, as people ask about a part of a
photograph too. The sides of a box are 25 to 80 % of the photograph's, log-uniform; this was written down before
Paris was looked at, and not changed afterwards.

The evidence is chosen by cross-validation over scenes (log loss at prior 0.5). Paris (queries cut out,
easy and hard against other landmarks and distractors, junk left out) is used for nothing but the last tables.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from sklearn.metrics import log_loss

import delf_engine.matching
import delf_engine.verification
from benchmarks.common import cached_features, data_folder, options_parser, print_table, sub_rparis, write_json
from benchmarks.systems import System, model_system
from benchmarks.verification.strecha import labelled_pairs, load_views
from delf_engine import LocalFeatures, Profile, Verification, load_profile, verify_features
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc
from delf_engine.images import find_images
from delf_engine.model import read_checkpoint_info
from delf_engine.verification.calibrating import cross_validated
from delf_engine.verification.calibration import Calibration, Evidence

_PRIOR = 0.5
_SHARE = (0.25, 0.8)
_EVERY = 5  # unrelated photographs: every fifth of the folder
_CANDIDATES: tuple[Evidence, ...] = ("inliers", "log_inliers", "inlier_similarity", "log_inlier_similarity")

Features = Mapping[str, LocalFeatures]


class LabelledPairs(NamedTuple):
    """Pairs to verify: names, whether they show one place, the two places, whether one image is a crop."""

    names: list[tuple[str, str]]
    labels: npt.NDArray[np.int64]
    places: list[tuple[str, str]]
    cropped: npt.NDArray[np.bool_]


def main() -> None:
    """Fit, choose, check, print tables, write JSON and, if asked, the calibration."""
    parser = options_parser(__doc__, "out/calibration.json", data=True, model=True)
    parser.add_argument("--profile", help="default: the checkpoint's own")
    parser.add_argument("--seed", type=int, default=0, help="of the boxes that are cut out of the views")
    parser.add_argument("--write", type=Path, help="write the chosen calibration here")
    parser.add_argument("--candidate", choices=_CANDIDATES, help="take this one, whatever wins")
    args = parser.parse_args()
    data = data_folder(args.data)
    profile = load_profile(args.profile or read_checkpoint_info(args.model).profile)
    system = model_system(args.model, config=profile.extraction)
    pairs, features = training_pairs(system, data, args.cache, args.seed)
    found = verified(pairs.names, features, profile, args.cache, system.identity)
    best, cross = choose(found, pairs)
    chosen = args.candidate or best
    name = f"{args.model}, profile {profile.name}"
    print_table(f"Cross-validation over Strecha's scenes ({name})", *_cross_table(cross, pairs))

    described = {
        "trained_on": "views of Strecha's scenes less than 60 degrees apart, whole and cut out; other scenes, and "
        "unrelated photographs, as different places",
        "checkpoint": system.identity,
        "profile": profile,
    }
    fits = {c: fit(found, pairs, c, described) for c in _CANDIDATES}
    paris, names = paris_pairs(system, data, args.cache)
    there = verified(paris.names, names, profile, args.cache, system.identity)
    rows = {c: paris_row(fitted, there, paris) for c, fitted in fits.items()}
    print_table(f"On Paris and distractors, never seen ({name})", *_paris_table(rows, chosen))

    whole = ~pairs.cropped
    without = fit(
        [v for v, w in zip(found, whole, strict=True) if w],
        LabelledPairs([], pairs.labels[whole], [], whole[whole]),
        chosen,
        described,
    )
    extra = {
        "fitted without the crops": paris_row(without, there, paris),
        "fitted on Paris's other landmarks": own_landmarks(there, paris, chosen),
    }
    print_table(f"For comparison: {chosen} on Paris", *_paris_table(extra, ""))
    calibration = fits[chosen]
    print_table("The chosen calibration", *_curve_table(calibration))
    if args.write:
        calibration.save(args.write)
        Console(stderr=True).print(f"wrote {args.write}", highlight=False)
    Console().print(
        "ECE and log loss: pairs weighted to prior 0.5, which the calibration holds for. As they are: the same "
        "probabilities, unweighted. Own share: unweighted, probabilities at the pairs' own share of one place."
    )
    report = {
        "model": args.model,
        "profile": profile.name,
        "chosen": chosen,
        "pairs": {"same": calibration.positives, "different": calibration.negatives},
        "cross_validation": cross,
        "paris": rows,
        "comparison": extra,
        "calibration": calibration.to_dict(),
    }
    write_json(args.out, report)


# ------------------------------------------------------------------------------------------------------- pairs


def training_pairs(
    system: System, data: Path, cache: Path, seed: int
) -> tuple[LabelledPairs, dict[str, LocalFeatures]]:
    """Return Strecha's labelled pairs, whole and cut out, and pairs with unrelated photographs."""
    views = load_views(data / "strecha")
    whole = system.features_of("strecha", {view.name: data / "strecha" / view.name for view in views}, cache)
    boxes = random_boxes({name: features.image_size for name, features in whole.items()}, seed=seed)
    cut = {
        f"crop {seed} of {name}": partial(system.extract, data / "strecha" / name, box=box)
        for name, box in boxes.items()
    }
    identity = f"{system.identity} strecha boxes {boxes}"
    crops = cached_features(cache, identity, system.dim, cut, title="strecha, cut out")
    photos = find_images([data / "photos"])[::_EVERY]
    others = system.features_of("some photos", {path: Path(path) for path in photos}, cache)
    names, labels, places, cropped = [], [], [], []
    for pair in labelled_pairs(views):
        if pair.kind in ("same", "different"):
            a, b = views[pair.first], views[pair.second]
            names += [(a.name, b.name), (f"crop {seed} of {a.name}", b.name), (f"crop {seed} of {b.name}", a.name)]
            labels += [int(pair.kind == "same")] * 3
            places += [(a.scene, b.scene)] * 3
            cropped += [False, True, True]
    for view in views:
        for number, photo in enumerate(photos):  # half of them with the view, half with its crop
            names.append((view.name if number % 2 == 0 else f"crop {seed} of {view.name}", photo))
            labels.append(0)
            places.append((view.scene, photo))
            cropped.append(number % 2 == 1)
    pairs = LabelledPairs(names, np.array(labels), places, np.array(cropped))
    return pairs, {**whole, **crops, **others}


def random_boxes(sizes: Mapping[str, tuple[int, int]], *, seed: int) -> dict[str, tuple[float, ...]]:
    """Return a box x0, y0, x1, y1 in each image of (width, height); its sides are log-uniform parts of those."""
    rng = np.random.default_rng(seed)
    boxes = {}
    for name, (width, height) in sizes.items():
        w, h = np.exp(rng.uniform(np.log(_SHARE[0]), np.log(_SHARE[1]), 2)) * (width, height)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        boxes[name] = tuple(round(float(v), 1) for v in (x, y, x + w, y + h))
    return boxes


def paris_pairs(system: System, data: Path, cache: Path) -> tuple[LabelledPairs, dict[str, LocalFeatures]]:
    """Return the pairs of Paris's queries, cut out, with its gallery (junk left out) and with all distractors."""
    truth = sub_rparis(data)
    queries, gallery = system.ranked(truth, data, cache)
    clutter = {path: Path(path) for path in find_images([data / "distractors"])}
    distractors = system.features_of("distractors", clutter, cache)
    names, labels, places = [], [], []
    for q, query in enumerate(queries):
        same = {*truth.easy[q].tolist(), *truth.hard[q].tolist()}
        junk = set(truth.junk[q].tolist())
        for i, name in enumerate(truth.names):
            if i not in junk:
                names.append((f"query {query}", name))
                labels.append(int(i in same))
                places.append((landmark(query), landmark(name)))
        names += [(f"query {query}", name) for name in distractors]
        labels += [0] * len(distractors)
        places += [(landmark(query), name) for name in distractors]
    features = {f"query {name}": found for name, found in queries.items()}
    pairs = LabelledPairs(names, np.array(labels), places, np.ones(len(names), bool))
    return pairs, {**features, **gallery, **distractors}


def landmark(name: str) -> str:
    """Return the landmark that a photograph of Paris was found by: ``paris_LANDMARK_NUMBER``."""
    return name.rpartition("/")[2].split("_")[1]


def verified(
    names: Sequence[tuple[str, str]], features: Features, profile: Profile, cache: Path, identity: str
) -> list[Verification]:
    """Return the verification of each pair; kept in the cache until options or the code of verification change."""
    digest = hashlib.sha256(f"{identity} {profile.verification.model_dump_json()} {_SHARE} {names}".encode())
    for room in (delf_engine.matching, delf_engine.verification):
        for source in sorted(Path(str(room.__file__)).parent.glob("*.py")):
            if not source.name.startswith("calibrat"):
                digest.update(source.read_bytes())
    path = cache / f"verifications-{digest.hexdigest()[:16]}.jsonl.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [Verification.from_dict(json.loads(line)) for line in lines]
    out = [
        verify_features(features[a], features[b], config=profile.verification, exponent=profile.ranking.exponent)
        for a, b in track(names, "verifying", console=Console(stderr=True))
    ]
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        file.writelines(json.dumps(v.to_dict()) + "\n" for v in out)
    return out


# ----------------------------------------------------------------------------------------------------- figures


def choose(
    found: Sequence[Verification], pairs: LabelledPairs
) -> tuple[Evidence, dict[Evidence, dict[str, float]]]:
    """Return the candidate with the lowest log loss between scenes, and the figures of all."""
    scenes = {a for a, _ in pairs.places}
    rows = {}
    for evidence in _CANDIDATES:
        p = cross_validated(found, pairs.labels, pairs.places, evidence=evidence, prior=_PRIOR, folds=len(scenes))
        judged = ~np.isnan(p)
        p, labels = p[judged], pairs.labels[judged]
        rows[evidence] = {
            "pairs": int(judged.sum()),
            "log_loss": _log_loss(p, labels),
            "ece": expected_calibration_error(p, labels, prior=_PRIOR),
            "auc": roc_auc(p, labels),
        }
    # A candidate is better by what can be seen: equal to a ten-thousandth goes to the earlier, simpler one.
    best = min(_CANDIDATES, key=lambda c: round(rows[c]["log_loss"], 4))
    return best, rows


def fit(
    found: Sequence[Verification],
    pairs: LabelledPairs,
    candidate: Evidence,
    described: Mapping[str, Any],
) -> Calibration:
    """Fit one candidate to all pairs."""
    return Calibration.fit(found, pairs.labels, evidence=candidate, prior=_PRIOR, **described)


def paris_row(calibration: Calibration, found: Sequence[Verification], pairs: LabelledPairs) -> dict[str, float]:
    """Return the figures of a calibration on Paris, at its own prior and at the share that Paris has."""
    share = float(pairs.labels.mean())
    return _figures(calibration.probabilities(found), calibration.probabilities(found, prior=share), pairs.labels)


def own_landmarks(found: Sequence[Verification], pairs: LabelledPairs, candidate: Evidence) -> dict[str, float]:
    """Return the figures where each landmark's queries are judged by a calibration of the other four.

    Pairs that touch the landmark with any image are left out of the fit; distractors are in both.
    """
    queries = np.array([a for a, _ in pairs.places])
    gallery = np.array([b for _, b in pairs.places])
    share = float(pairs.labels.mean())
    p, shifted = np.empty(len(found)), np.empty(len(found))
    for place in sorted(set(queries.tolist())):
        learnt = np.flatnonzero((queries != place) & (gallery != place)).tolist()
        judged = np.flatnonzero(queries == place).tolist()
        calibration = Calibration.fit(
            [found[i] for i in learnt],
            pairs.labels[learnt],
            evidence=candidate,
            prior=_PRIOR,
            trained_on="Paris",
        )
        p[judged] = calibration.probabilities([found[i] for i in judged])
        shifted[judged] = calibration.probabilities([found[i] for i in judged], prior=share)
    return _figures(p, shifted, pairs.labels)


def _figures(
    p: npt.NDArray[np.float64], shifted: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> dict[str, float]:
    return {
        "ece": expected_calibration_error(p, labels, prior=_PRIOR),
        "ece_unweighted": expected_calibration_error(p, labels),
        "ece_own_share": expected_calibration_error(shifted, labels),
        "log_loss": _log_loss(p, labels),
        "auc": roc_auc(p, labels),
        "accuracy": float(((p >= 0.5) == labels).mean()),
        "same_accepted": float((p[labels == 1] >= 0.5).mean()),
        "different_accepted": float((p[labels == 0] >= 0.5).mean()),
    }


# ------------------------------------------------------------------------------------------------------ tables


def _log_loss(p: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Return the mean of -ln P(label), in nats, with pairs of label 1 weighted to the prior."""
    weights = np.where(labels == 1, _PRIOR / (labels == 1).sum(), (1 - _PRIOR) / (labels == 0).sum())
    return float(log_loss(labels, p, sample_weight=weights))


def _cross_table(
    rows: Mapping[Any, Mapping[str, float]], pairs: LabelledPairs
) -> tuple[list[str], list[list[str]]]:
    columns = [f"of {len(pairs.labels):,} pairs, {pairs.labels.sum():,} same", "judged", "log loss", "ECE", "AUC"]
    return columns, [
        [name, f"{row['pairs']:,}", *(f"{row[key]:.4f}" for key in ("log_loss", "ece", "auc"))]
        for name, row in rows.items()
    ]


def _paris_table(rows: Mapping[Any, Mapping[str, float]], chosen: str) -> tuple[list[str], list[list[str]]]:
    columns = ["", "ECE", "as they are", "own share", "log loss", "AUC", "same >= 0.5", "other >= 0.5"]
    keys = ("ece", "ece_unweighted", "ece_own_share", "log_loss", "auc")
    return columns, [
        [
            f"{name} (chosen)" if name == chosen else name,
            *(f"{row[key]:.4f}" for key in keys),
            *(f"{100 * row[key]:.1f} %" for key in ("same_accepted", "different_accepted")),
        ]
        for name, row in rows.items()
    ]


def _curve_table(calibration: Calibration) -> tuple[list[str], list[list[str]]]:
    rows = ((calibration.evidence, calibration.slope), ("(intercept)", calibration.intercept))
    return ["evidence", "coefficient"], [[name, f"{value:.5f}"] for name, value in rows]


if __name__ == "__main__":
    main()
