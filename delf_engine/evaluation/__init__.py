"""Protocols and metrics: rankings in, figures out."""

from delf_engine.evaluation.bootstrap import (
    Comparison,
    QueryDifference,
    paired_bootstrap,
    query_differences,
    recognition_bootstrap,
)
from delf_engine.evaluation.calibration_figures import (
    Reliability,
    RocCurve,
    expected_calibration_error,
    reliability,
    roc_auc,
    roc_curve,
)
from delf_engine.evaluation.classes import ClassFigures, ClassTruth, class_truth_of_folder, evaluate_classes
from delf_engine.evaluation.ground_truth import SETUPS, GroundTruth, Setup, load_ground_truth, restrict
from delf_engine.evaluation.ground_truth_files import save_ground_truth
from delf_engine.evaluation.landmark_files import (
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
)
from delf_engine.evaluation.landmarks import (
    LandmarkSolution,
    RecognitionFigures,
    RetrievalFigures,
    evaluate_landmark_recognition,
    evaluate_landmark_retrieval,
)
from delf_engine.evaluation.rankings import rankings_from_ranks, rankings_from_scores
from delf_engine.evaluation.revisited import Evaluation, evaluate, evaluate_setups
from delf_engine.evaluation.setup_shortlists import candidates_to_verify, setup_shortlists

__all__ = [
    "SETUPS",
    "ClassFigures",
    "ClassTruth",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "LandmarkSolution",
    "QueryDifference",
    "RecognitionFigures",
    "Reliability",
    "RetrievalFigures",
    "RocCurve",
    "Setup",
    "candidates_to_verify",
    "class_truth_of_folder",
    "evaluate",
    "evaluate_classes",
    "evaluate_landmark_recognition",
    "evaluate_landmark_retrieval",
    "evaluate_setups",
    "expected_calibration_error",
    "load_ground_truth",
    "paired_bootstrap",
    "query_differences",
    "rankings_from_ranks",
    "rankings_from_scores",
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
    "setup_shortlists",
]
