"""The result of a run as plain values: what its JSON, its tables and its page are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.revisited.inputs import Inputs
from benchmarks.revisited.methods import Measured
from delf_engine.evaluation import SETUPS, Evaluation, GroundTruth, Setup, paired_bootstrap

__all__ = ["PUBLISHED", "method_entries", "result_of"]

_DELF = "Radenovic et al. 2018"
_D2R = "Teichmann et al. 2019"

#: mAP Medium and Hard as published: quoted, not measured here.
PUBLISHED: tuple[tuple[str, str, float, float, str], ...] = (
    ("DELF-ASMK* + SP", "roxford5k", 67.8, 43.1, _DELF),
    ("DELF-ASMK* + SP", "rparis6k", 76.9, 55.4, _DELF),
    ("DELF-ASMK* + SP", "roxford5k + revisitop1m", 53.8, 31.2, _DELF),
    ("DELF-R-ASMK* + SP", "roxford5k", 76.0, 52.4, _D2R),
    ("DELF-R-ASMK* + SP", "rparis6k", 80.2, 58.6, _D2R),
    ("DELF-R-ASMK* + SP", "roxford5k + revisitop1m", 64.0, 38.1, _D2R),
    ("HOW R50, 2000 features, ASMK*", "roxford5k", 79.4, 56.9, "Tolias et al. 2020"),
    ("HOW R50, 2000 features, ASMK*", "rparis6k", 81.6, 62.4, "Tolias et al. 2020"),
    ("HOW R50, 2000 features, ASMK*", "roxford5k + revisitop1m", 65.8, 38.9, "Tolias et al. 2020"),
    ("FIRe", "roxford5k", 82.6, 62.2, "Weinzaepfel et al. 2022"),
    ("FIRe", "rparis6k", 85.2, 70.0, "Weinzaepfel et al. 2022"),
    ("DELG R50, global", "roxford5k", 73.6, 51.0, "Cao et al. 2020"),
    ("DELG R50, global", "rparis6k", 85.7, 71.5, "Cao et al. 2020"),
    ("DELG R50, global, first 100 verified", "roxford5k", 78.3, 57.9, "Cao et al. 2020"),
    ("DELG R50, global, first 100 verified", "rparis6k", 85.7, 71.0, "Cao et al. 2020"),
    ("DELG R50, global, first 100 verified", "roxford5k + revisitop1m", 67.2, 43.6, "Cao et al. 2020"),
)


def result_of(
    inputs: Inputs,
    truth: GroundTruth,
    measured: Sequence[Measured],
    *,
    configuration: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Return everything that a run has found, as plain values.

    Parameters
    ----------
    inputs : Inputs
    truth : GroundTruth
        That of `inputs` with distractors behind its images.
    measured : sequence of Measured
        A method stands behind the one whose candidates it verifies.
    configuration : mapping
        Options and hashes by system.
    stages : sequence of mapping
    notes : sequence of str
    seed : int
        Of the bootstrap.
    """
    counts = {setup: [len(p) for p in truth.positives_of(setup)] for setup in SETUPS}
    own = len(inputs.truth.names)
    distractors = len(truth.names) - own
    return {
        "title": inputs.title + (f" + {distractors:,} distractors" if distractors else ""),
        "dataset": {
            "name": inputs.name,
            "ground_truth": {"path": str(inputs.ground_truth), "sha256": inputs.sha256},
            "queries": len(truth),
            "images": own,
            "distractors": distractors,
            "missing": {"images": list(inputs.missing_images), "queries": list(inputs.missing_queries)},
            "left_out": list(inputs.left_out),
        },
        "configuration": configuration,
        "methods": method_entries(measured, seed),
        "details": {m.name: {"medium": dict(m.shown)} for m in measured},
        "missed": {m.name: {"medium": dict(m.missed)} for m in measured},
        "queries": {
            query: {
                "box": truth.boxes[q].tolist(),
                "positives": {setup: counts[setup][q] for setup in SETUPS},
            }
            for q, query in enumerate(truth.query_names)
        },
        "inliers": {m.name: m.inliers for m in measured if m.inliers is not None},
        "stages": list(stages),
        "published": [
            {"system": system, "dataset": name, "medium": medium, "hard": hard, "source": source}
            for system, name, medium, hard, source in PUBLISHED
            if inputs.official and not inputs.restricted and name.split(" + ")[0] == inputs.name
        ],
        "notes": list(notes),
    }


def method_entries(measured: Sequence[Measured], seed: int) -> list[dict[str, Any]]:
    """Return the figures of each method, with 95 % intervals over resampled queries."""
    by_name = {m.name: m for m in measured}
    return [
        {
            "name": m.name,
            "parent": m.parent,
            "seconds_per_query": m.seconds_per_query,
            "setups": {setup: _figures(m.evaluations[setup], seed) for setup in SETUPS},
            "against_parent": None
            if m.parent is None
            else {setup: _difference(m, by_name[m.parent], setup, seed) for setup in SETUPS},
        }
        for m in measured
    ]


def _figures(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    found = evaluation.to_dict()
    if evaluation.evaluated:
        own = evaluation.average_precision
        interval = paired_bootstrap(own, 0 * own, samples=2000, seed=seed)
        found["interval_95"] = [interval.low, interval.high]
    else:
        found["interval_95"] = None
    found["precision"] = {
        query: None if np.isnan(row).any() else row.tolist()
        for query, row in zip(evaluation.query_names, evaluation.precision, strict=True)
    }
    return found


def _difference(m: Measured, parent: Measured, setup: Setup, seed: int) -> dict[str, Any] | None:
    own, other = m.evaluations[setup], parent.evaluations[setup]
    if not own.evaluated:
        return None
    return paired_bootstrap(own.average_precision, other.average_precision, samples=2000, seed=seed).to_dict()
