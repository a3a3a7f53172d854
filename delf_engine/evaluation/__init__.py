"""Protocols and metrics: rankings in, figures out."""

from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap
from delf_engine.evaluation.calibration_figures import (
    Reliability,
    RocCurve,
    expected_calibration_error,
    reliability,
    roc_auc,
    roc_curve,
)
from delf_engine.evaluation.ground_truth_files import save_ground_truth
from delf_engine.evaluation.revisited import (
    SETUPS,
    Evaluation,
    GroundTruth,
    Setup,
    evaluate,
    load_ground_truth,
    restrict,
)

__all__ = [
    "SETUPS",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "Reliability",
    "RocCurve",
    "Setup",
    "evaluate",
    "expected_calibration_error",
    "load_ground_truth",
    "paired_bootstrap",
    "reliability",
    "restrict",
    "roc_auc",
    "roc_curve",
    "save_ground_truth",
]
