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
from delf_engine.evaluation.ground_truth import SETUPS, GroundTruth, Setup, load_ground_truth, restrict
from delf_engine.evaluation.rankings import rankings_from_ranks, rankings_from_scores
from delf_engine.evaluation.revisited import Evaluation, evaluate, evaluate_setups
from delf_engine.evaluation.setup_shortlists import candidates_to_verify, setup_shortlists

__all__ = [
    "SETUPS",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "Reliability",
    "RocCurve",
    "Setup",
    "candidates_to_verify",
    "evaluate",
    "evaluate_setups",
    "expected_calibration_error",
    "load_ground_truth",
    "paired_bootstrap",
    "rankings_from_ranks",
    "rankings_from_scores",
    "reliability",
    "restrict",
    "roc_auc",
    "roc_curve",
    "setup_shortlists",
]
