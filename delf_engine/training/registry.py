"""Losses, sources and teachers by the names that recipes use."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from delf_engine.errors import ConfigError
from delf_engine.training.batches import Teacher, TeacherContext
from delf_engine.training.contract import Loss
from delf_engine.training.losses.classification import ArcFace, Softmax
from delf_engine.training.losses.contrast import Contrast
from delf_engine.training.losses.distillation import Distillation
from delf_engine.training.losses.match import Match
from delf_engine.training.losses.vectors import (
    CoupledClusters,
    GlobalContrastive,
    GlobalTriplet,
    NetvladRanking,
)
from delf_engine.training.sources.classes import ClassesSource
from delf_engine.training.sources.mined import MinedSource
from delf_engine.training.sources.views import ViewsSource
from delf_engine.training.teachers import AlikedTeacher, CheckpointTeacher, TrunkTeacher

T = TypeVar("T")

LOSSES: dict[str, type[Loss]] = {
    "arcface": ArcFace,
    "contrast": Contrast,
    "coupled_clusters": CoupledClusters,
    "distillation": Distillation,
    "global_contrastive": GlobalContrastive,
    "global_triplet": GlobalTriplet,
    "match": Match,
    "netvlad_ranking": NetvladRanking,
    "softmax": Softmax,
}
#: Classes of the protocol `contract.Source`, each with its ``Options``.
SOURCES: dict[str, Any] = {"classes": ClassesSource, "mined": MinedSource, "views": ViewsSource}
TEACHERS: dict[str, Callable[..., Teacher]] = {
    "aliked": AlikedTeacher,
    "checkpoint": CheckpointTeacher,
    "trunk": TrunkTeacher,
}


def find(known: Mapping[str, T], what: str, name: str) -> T:
    """Return the entry of a table; `what` names its kind in the error.

    A `ConfigError` if there is none; it names the nearest known one.
    """
    if name not in known:
        hint = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ConfigError(
            f"there is no {what} {name!r}"
            + (f"; did you mean {hint[0]!r}?" if hint else "")
            + f" (known: {', '.join(sorted(known))})"
        )
    return known[name]


def build_teacher(name: str, context: TeacherContext) -> Teacher:
    """Build a teacher: ``KIND:ARGUMENT`` for a registered kind, anything else is a checkpoint by name or path.

    A `ConfigError` or `CheckpointError` if it cannot be built.
    """
    kind, argument = _split(name)
    return find(TEACHERS, "teacher", kind)(argument, context)


def teacher_file(name: str) -> str:
    """Return what stands behind the last colon of a teacher's name: its file, if it has one."""
    kind, argument = _split(name)
    return argument.rpartition(":")[2] if kind == "trunk" else argument


def _split(name: str) -> tuple[str, str]:
    kind, colon, argument = name.partition(":")
    if not colon or "/" in kind:  # a name, a path
        return "checkpoint", name
    return kind, argument
