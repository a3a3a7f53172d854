"""Protocols and metrics: rankings in, figures out."""

from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap, recognition_bootstrap
from delf_engine.evaluation.calibration_figures import (
    Reliability,
    RocCurve,
    expected_calibration_error,
    reliability,
    roc_auc,
    roc_curve,
)
from delf_engine.evaluation.classes import ClassTruth, class_truth_of_folder, evaluate_classes
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.ground_truth import (
    SETUPS,
    GroundTruth,
    Setup,
    load_ground_truth,
    restrict,
    save_ground_truth,
)
from delf_engine.evaluation.landmark_files import (
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
)
from delf_engine.evaluation.landmarks import (
    LandmarkSolution,
    RecognitionFigures,
    evaluate_landmark_recognition,
    evaluate_landmark_retrieval,
)
from delf_engine.evaluation.protocols import PROTOCOLS, compare, load_protocol, measure
from delf_engine.evaluation.rankings import rankings_from_ranks
from delf_engine.evaluation.revisited import evaluate, evaluate_setups

__all__ = [
    "PROTOCOLS",
    "SETUPS",
    "ClassTruth",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "LandmarkSolution",
    "RecognitionFigures",
    "Reliability",
    "RocCurve",
    "Setup",
    "class_truth_of_folder",
    "compare",
    "evaluate",
    "evaluate_classes",
    "evaluate_landmark_recognition",
    "evaluate_landmark_retrieval",
    "evaluate_setups",
    "expected_calibration_error",
    "load_ground_truth",
    "load_protocol",
    "measure",
    "paired_bootstrap",
    "rankings_from_ranks",
    "read_recognition_solution",
    "read_recognition_submission",
    "read_retrieval_solution",
    "read_retrieval_submission",
    "recognition_bootstrap",
    "reliability",
    "restrict",
    "roc_auc",
    "roc_curve",
    "save_ground_truth",
]
