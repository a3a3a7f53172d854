"""Protocols and metrics: rankings in, figures out."""

from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap
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
    "Setup",
    "evaluate",
    "load_ground_truth",
    "paired_bootstrap",
    "restrict",
]
