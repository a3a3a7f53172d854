"""Teachers by the names that recipes give them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from delf_engine.errors import ConfigError
from delf_engine.training.batches import START, Teacher, TeacherContext
from delf_engine.training.config import GradientStage, TrainingConfig
from delf_engine.training.losses.distillation import DistillationOptions
from delf_engine.training.registry import TEACHERS, find

__all__ = ["build_teachers", "teacher_file", "teacher_names", "with_teacher"]


def teacher_names(stages: Iterable[GradientStage]) -> list[str]:
    """Return the teachers that the losses of some stages need, but for `START`."""
    names = {name for stage in stages for loss in stage.losses for name in loss.teachers}
    return sorted(names - {START})


def build_teachers(names: Iterable[str], context: TeacherContext) -> dict[str, Teacher]:
    """Build teachers: ``KIND:ARGUMENT`` for a registered kind, anything else is a checkpoint by name or path.

    Raises
    ------
    ConfigError, CheckpointError
        If one cannot be built.
    """
    return {name: _build(name, context) for name in names}


def teacher_file(name: str) -> str:
    """Return what stands behind the last colon of a teacher's name: its file, if it has one."""
    kind, argument = _split(name)
    return argument.rpartition(":")[2] if kind == "trunk" else argument


def with_teacher(config: TrainingConfig, teacher: str) -> TrainingConfig:
    """Return a recipe whose distillation losses, those from the start apart, learn from another teacher.

    Raises
    ------
    ConfigError
        If the recipe has no such loss.
    """
    if not teacher_names(config.gradient_stages):
        raise ConfigError(f"recipe {config.name} has no teacher to replace by {teacher}: add a distillation loss")

    def replaced(loss: Any) -> Any:
        if isinstance(loss, DistillationOptions) and loss.teacher != START:
            return loss.model_copy(update={"teacher": teacher})
        return loss

    for stage in config.stages:
        if isinstance(stage, GradientStage):
            config = config.with_stage(stage.name, losses=tuple(replaced(loss) for loss in stage.losses))
    return config


def _build(name: str, context: TeacherContext) -> Teacher:
    kind, argument = _split(name)
    return find(TEACHERS, "teacher", kind)(argument, context)


def _split(name: str) -> tuple[str, str]:
    kind, colon, argument = name.partition(":")
    if not colon or "/" in kind:  # a name, a path
        return "checkpoint", name
    return kind, argument
