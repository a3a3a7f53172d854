"""Protocols and metrics: rankings in, figures out."""

from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.ground_truth import (
    SETUPS,
    GroundTruth,
    Setup,
    load_ground_truth,
    restrict,
    save_ground_truth,
)
from delf_engine.evaluation.protocols import PROTOCOLS, compare, load_protocol, measure
from delf_engine.evaluation.rankings import rankings_from_ranks
from delf_engine.evaluation.revisited import evaluate, evaluate_setups

__all__ = [
    "PROTOCOLS",
    "SETUPS",
    "Comparison",
    "Evaluation",
    "GroundTruth",
    "Setup",
    "compare",
    "evaluate",
    "evaluate_setups",
    "load_ground_truth",
    "load_protocol",
    "measure",
    "paired_bootstrap",
    "rankings_from_ranks",
    "restrict",
    "save_ground_truth",
]
