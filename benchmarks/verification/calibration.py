"""How probable is it that two photographs show the same place? Fits the calibration of a checkpoint and checks it.

    python -m benchmarks.verification.calibration --data DATA --model delf-r18 [--profile P]
        [--write FILE.calibration.json] [--details FILE.calibration.json]

Fitted on Strecha's scenes, whole and cut out, on the part of `landmarks/` that is for fitting, and on unrelated
photographs; some of them thumbnails, some wearing frames and overlays. The coarse evidence is chosen by
cross-validation between places (log loss at prior 0.5). The last rows are of sets that nothing was fitted on; one
table is of the calibration by fine evidence alone, which holds for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from sklearn.metrics import log_loss

from benchmarks.common import data_folder, options_parser, print_rows, write_json
from benchmarks.systems import model_system
from benchmarks.verification.evidence import Evidence
from benchmarks.verification.sameness_sets import CHECKED, Judged, checked_sets, fitted_sets, judged
from delf_engine.verification.calibrating import cross_validated
from delf_engine.verification.calibration import COARSE, Calibration

__all__ = ["figures", "main"]

_PRIOR = 0.5
_FOLDS = 4
_TRAINED_ON = (
    "views of Strecha's scenes, whole and cut out, photographs of landmarks, and unrelated photographs; some of "
    "them thumbnails, some wearing frames and overlays"
)


def main() -> None:
    """Fit, choose, check, print tables, write JSON and, if asked, the calibration."""
    parser = options_parser(__doc__, "out/calibration.json", data=True, model=True)
    parser.add_argument("--profile", help="default: the checkpoint's own")
    parser.add_argument("--write", type=Path, help="write the chosen calibration here")
    parser.add_argument("--details", type=Path, help="write that of fine evidence alone here")
    parser.add_argument("--candidate", choices=COARSE, help="take this one, whatever wins")
    parser.add_argument("--sets", nargs="*", choices=CHECKED, default=CHECKED, help="to check it on")
    args = parser.parse_args()
    system = model_system(args.model, profile=args.profile)
    evidence = Evidence(system, data_folder(args.data), args.cache)
    parts = {pairs.name: judged(evidence, pairs) for pairs in fitted_sets(evidence)}
    fitted = together(list(parts.values()))
    cross = {name: cross_validation(fitted, name) for name in COARSE}
    chosen = args.candidate or min(COARSE, key=lambda name: round(cross[name]["log_loss"], 4))
    calibration, details = (
        Calibration.fit(
            fitted.verifications,
            fitted.labels,
            evidence=name,
            prior=_PRIOR,
            weights=fitted.weights,
            trained_on=_TRAINED_ON,
            checkpoint=system.identity.split()[0],
            profile=system.profile,
        )
        for name in (chosen, None)
    )
    name = f"{args.model}, profile {system.profile.name}"
    columns = {"evidence": "{evidence}", "log loss": "{log_loss:.4f}", "ECE": "{ece:.4f}"}
    print_rows(f"Cross-validation between places ({name})", [{"evidence": c, **cross[c]} for c in cross], columns)
    for curve in (calibration.coarse, calibration.fine, details.fine):
        Console().print(curve, highlight=False)
    checked = {pairs.name: judged(evidence, pairs) for pairs in checked_sets(evidence, args.sets)}
    sets = {**parts, **checked}
    rows, bare = (
        [{"set": what, **figures(each, pairs)} for what, pairs in sets.items()] for each in (calibration, details)
    )
    print_rows(f"Fitted on, and checked on ({name}, {chosen})", rows, _COLUMNS)
    print_rows("The same by fine evidence alone", bare, {n: c for n, c in _COLUMNS.items() if "coarse" not in n})
    for path, each in ((args.write, calibration), (args.details, details)):
        if path:
            each.save(path)
            Console(stderr=True).print(f"wrote {path}", highlight=False)
    report = {"model": args.model, "profile": system.profile.name, "chosen": chosen, "cross_validation": cross}
    write_json(args.out, {**report, "sets": rows, "details": bare, "calibration": calibration.to_dict()})


_COLUMNS = {
    "set": "{set}",
    "pairs": "{right:,} / {wrong:,}",
    "ECE": "{ece:.3f}",
    "coarse": "{coarse_ece:.3f}",
    '"same", %': "{same:.1f}",
    "coarse, %": "{coarse_same:.1f}",
    "falsely": "{false:.1f}",
    "1 / 10,000": "{false_rate:.2f}",
    "coarse, falsely": "{coarse_false:.1f}",
}


def together(parts: Sequence[Judged]) -> Judged:
    """Return all pairs as one set."""
    return Judged(
        [v for part in parts for v in part.verifications],
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.weights for part in parts]),
        [place for part in parts for place in part.places],
        [pair for part in parts for pair in part.pairs],
    )


def cross_validation(pairs: Judged, name: Any) -> dict[str, float]:
    """Return the figures of one kind of coarse evidence, each pair judged by other places."""
    p = cross_validated(
        pairs.verifications,
        pairs.labels,
        pairs.places,
        evidence=name,
        prior=_PRIOR,
        folds=_FOLDS,
        weights=pairs.weights,
    )
    known = ~np.isnan(p)
    p, labels, weights = p[known], pairs.labels[known], _balanced(pairs.labels[known], pairs.weights[known])
    return {
        "log_loss": float(log_loss(labels, p, sample_weight=weights)),
        "ece": calibration_error(p, labels, weights),
    }


def figures(calibration: Calibration, pairs: Judged) -> dict[str, float]:
    """Return expected calibration error at prior 0.5, per cent of one place and pairs of different ones accepted.

    Those of ``coarse`` are without fine evidence, if the calibration judges that.
    """
    right, wrong = pairs.labels, ~pairs.labels
    out: dict[str, float] = {"right": int(right.sum()), "wrong": round(pairs.weights[wrong].sum())}
    coarse = [replace(v, fine=None) for v in pairs.verifications] if calibration.coarse else None
    for kind, verifications in (("", pairs.verifications), ("coarse_", coarse)):
        if verifications is None:
            continue
        p = calibration.probabilities(verifications)
        curves = [calibration.curve_for(v) for v in verifications]  # none: too small, for fine evidence alone
        same = p >= [1.0 if curve is None else curve.accept for curve in curves]
        both = bool(right.any() and wrong.any())
        weights = _balanced(right, pairs.weights) if both else pairs.weights
        out[f"{kind}ece"] = calibration_error(p, right, weights) if both else float("nan")
        out[f"{kind}same"] = 100 * float(same[right].mean()) if right.any() else float("nan")
        out[f"{kind}false"] = float(pairs.weights[same & wrong].sum())
    out["false_rate"] = 1e4 * out["false"] / max(1, out["wrong"])
    return out


def calibration_error(
    p: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64], bins: int = 10
) -> float:
    """Return `expected_calibration_error` of weighted pairs."""
    of_bin = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p)
    return float(np.abs(np.bincount(of_bin, weights * (p - labels), bins)).sum() / weights.sum())


def _balanced(labels: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return weights with which both labels weigh as the prior says."""
    sums = [weights[labels == label].sum() for label in (False, True)]
    return weights * np.where(labels, _PRIOR / sums[1], (1 - _PRIOR) / sums[0])


if __name__ == "__main__":
    main()
