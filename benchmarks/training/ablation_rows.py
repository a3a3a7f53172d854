"""The rows of the ablation: each is a recipe to train by, and what is changed afterwards.

Training rows are overrides of one recipe. Its *tuning* stages are the gradient stages that train the trunk, or its
last stage; the others train the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from delf_engine.config import ExtractionConfig
from delf_engine.errors import ConfigError
from delf_engine.training.batches import START
from delf_engine.training.config import GradientStage, PcaStage, Stage, TrainingConfig, teacher_names, with_teacher
from delf_engine.training.contract import LossOptions
from delf_engine.training.losses.contrast import ContrastOptions
from delf_engine.training.losses.distillation import DistillationOptions
from delf_engine.training.registry import SOURCES

__all__ = ["FULL", "AblationRow", "ablation_rows", "chosen_rows", "shortened"]

#: The row that all others are compared with.
FULL = "full"

_SEVEN = (0.25, 0.35355339, 0.5, 0.70710678, 1.0, 1.41421356, 2.0)
_FEATURES = (1000, 500, 2000, 250)
_DIMS = (40, 128, 20, 64)
#: Cells of this many times the pairs compete in the head's label.
_CROWD = 4
#: A tuning stage by contrast, and one by a teacher, for recipes that have only the other: a classifier's ResNet-18
#: takes harder learning from a teacher than from contrast on synthetic views, which spoils its features.
_CONTRAST_STAGE = {"learning_rate": 1e-5, "steps": 200, "warmup": 0}
_CONTRAST = ContrastOptions(kind="contrast", cells=64)
_TEACHER_STAGE = {"learning_rate": 5e-5, "loss_rate": 20.0, "steps": 300, "warmup": 20}


@dataclass(frozen=True)
class AblationRow:
    """One row.

    Attributes
    ----------
    key : str
        As ``--rows`` calls it.
    label : str
        As the table calls it.
    recipe : TrainingConfig
        What is trained.
    extraction : mapping
        Changes of the profile's extraction options.
    dim : int or None
        PCA is fitted again, to this dimension.
    smoothing : int
        Side of the window over which features are averaged before projection, in cells.
    whitening : float
        PCA is fitted again and component k scaled by its variance to the power -whitening / 2.
    """

    key: str
    label: str
    recipe: TrainingConfig
    extraction: Mapping[str, Any] = field(default_factory=dict)
    dim: int | None = None
    smoothing: int = 1
    whitening: float = 0.0

    @property
    def refits(self) -> bool:
        """Whether the PCA is fitted again."""
        return self.dim is not None or self.whitening > 0

    @property
    def seeded(self) -> bool:
        """Whether anything of it is drawn at random in training."""
        return bool(self.recipe.gradient_stages)


def ablation_rows(
    recipe: TrainingConfig, extraction: ExtractionConfig, teachers: Sequence[str] = ()
) -> list[AblationRow]:
    """Return all rows, those that tell most first.

    Parameters
    ----------
    recipe : TrainingConfig
        The full recipe. It draws pairs (no labels), and no stage of it trains trunk and attention at once.
    extraction : ExtractionConfig
        Of its profile; rows that would change nothing are left out.
    teachers : sequence of str
        As recipes name them; each gets its rows, and so do those of the recipe.

    Raises
    ------
    ConfigError
        If the recipe cannot be taken apart so.
    """
    _check(recipe)
    return [
        AblationRow(FULL, "full recipe", recipe),
        AblationRow("trunk", "trunk only, scores = L2 norm", _without(recipe, lambda stage: True)),
        AblationRow("head", "+ head, trunk untouched", _without(recipe, _tunes)),
        *_tuning_rows(recipe, list(dict.fromkeys([*teacher_names(recipe.gradient_stages), *teachers]))),
        *_head_rows(recipe),
        *_extraction_rows(recipe, extraction),
        *[AblationRow(f"dim-{dim}", f"{dim}-D", recipe, dim=dim) for dim in _DIMS if dim != recipe.dim],
        AblationRow("smooth", "3x3 smoothing", recipe, smoothing=3),
        AblationRow("half-white", "half-whitened", recipe, whitening=0.5),
        *_slow_rows(recipe, extraction),
    ]


def chosen_rows(rows: Sequence[AblationRow], names: Sequence[str] | None) -> list[AblationRow]:
    """Return the rows whose keys match one of `names`, which may hold ``*``; None: all.

    Raises
    ------
    ConfigError
        If a name matches nothing.
    """
    if names is None:
        return list(rows)
    for name in names:
        if not any(fnmatchcase(row.key, name) for row in rows):
            raise ConfigError(f"there is no row {name!r}; known rows: {', '.join(row.key for row in rows)}")
    return [row for row in rows if any(fnmatchcase(row.key, name) for name in names)]


def shortened(recipe: TrainingConfig, factor: float) -> TrainingConfig:
    """Return the recipe with the steps of all gradient stages times `factor`, one at least."""
    for stage in recipe.gradient_stages:
        changes = {key: round(getattr(stage, key) * factor) for key in ("warmup", "evaluate_every") if factor != 1}
        recipe = recipe.with_stage(stage.name, steps=max(1, round(stage.steps * factor)), **changes)
    return recipe


def _check(recipe: TrainingConfig) -> None:
    for stage in recipe.gradient_stages:
        if SOURCES[stage.source.kind].kind != "pairs":
            raise ConfigError(
                f"recipe {recipe.name}, stage {stage.name}: the ablation needs stages that draw pairs"
            )
        if _tunes(stage) and "attention" in stage.train:
            raise ConfigError(
                f"recipe {recipe.name}, stage {stage.name} trains trunk and attention at once: it cannot be taken "
                "apart"
            )
    if not isinstance(recipe.stages[-1], PcaStage):
        raise ConfigError(f"recipe {recipe.name}: the last stage must be a pca stage")


def _tunes(stage: Stage) -> bool:
    return (
        isinstance(stage, GradientStage) and bool(stage.steps) and not {"trunk", "layer3"}.isdisjoint(stage.train)
    )


def _without(recipe: TrainingConfig, left_out: Callable[[Stage], bool]) -> TrainingConfig:
    """Return the recipe without some of its gradient stages."""
    stages = [s for s in recipe.stages if isinstance(s, PcaStage) or not left_out(s)]
    return _tidy(recipe, stages)


def _tidy(recipe: TrainingConfig, stages: Sequence[Stage]) -> TrainingConfig:
    """Drop PCAs that the next one replaces; where nothing trains the attention, select by the norm."""
    kept: list[Stage] = []
    attends = False
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        if isinstance(stage, GradientStage):
            attends = attends or ("attention" in stage.train and bool(stage.steps))
        elif isinstance(following, PcaStage):
            continue
        elif not attends:
            stage = stage.model_copy(update={"select": "norm"})
        kept.append(stage)
    return recipe.model_copy(update={"stages": tuple(kept)})


# ------------------------------------------------------------------------------------------------ tuning


def _tuning_rows(recipe: TrainingConfig, teachers: Sequence[str]) -> list[AblationRow]:
    if not any(_tunes(stage) for stage in recipe.stages):
        return []
    rows = [AblationRow("contrast", "+ head, contrast", _contrasted(recipe))]
    for name, teacher in zip(_short_names(teachers), teachers, strict=True):
        rows += [
            AblationRow(f"teacher-{name}", f"+ head, {name} as teacher", _taught(recipe, teacher)),
            AblationRow(f"contrast-{name}", f"+ head, contrast, {name} as teacher", _both(recipe, teacher)),
        ]
    if any(_stays(loss) for loss in _terms(recipe)):
        free = _with_losses(recipe, lambda losses: [loss for loss in losses if not _stays(loss)])
        rows.append(AblationRow("free", "not held near the start", free))
    return rows


def _contrasted(recipe: TrainingConfig) -> TrainingConfig:
    """Return the recipe tuned without any teacher but its start; by contrast if that leaves nothing."""
    kept = _with_losses(recipe, lambda losses: _learning([loss for loss in losses if not _teaches(loss)]))
    if any(_tunes(stage) for stage in kept.stages):
        return kept
    return _with_pca_first(_with_one_tuning(recipe, _CONTRAST_STAGE, (_CONTRAST, _near_start(10.0))))


def _taught(recipe: TrainingConfig, teacher: str) -> TrainingConfig:
    """Return the recipe tuned by a teacher alone, held near its start as it is."""
    taught = _from_teacher(recipe, teacher)
    kept = _with_losses(taught, lambda losses: _learning([x for x in losses if _stays(x) or _teaches(x)]))
    if any(_tunes(stage) for stage in kept.stages):
        return kept
    new = DistillationOptions(kind="distillation", teacher=teacher, target="descriptors", best=0.5)
    return _with_one_tuning(recipe, _TEACHER_STAGE, (new, _near_start(1.0)))


def _both(recipe: TrainingConfig, teacher: str) -> TrainingConfig:
    """Return the recipe tuned by contrast and a teacher; a stage that lacks one gets both."""
    own = [loss for loss in _terms(recipe) if isinstance(loss, ContrastOptions)]
    if own and any(_teaches(loss) for loss in _terms(recipe)):
        return _from_teacher(recipe, teacher)
    taught = _taught(recipe, teacher)
    first = next(s for s in taught.stages if isinstance(s, GradientStage) and _tunes(s))
    return _with_pca_first(taught.with_stage(first.name, losses=((own or [_CONTRAST])[0], *first.losses)))


def _stays(loss: LossOptions) -> bool:
    return isinstance(loss, DistillationOptions) and loss.teacher == START


def _teaches(loss: LossOptions) -> bool:
    return isinstance(loss, DistillationOptions) and loss.teacher != START


def _learning(losses: list[LossOptions]) -> list[LossOptions]:
    """Return the losses, or none if they only hold the trunk where it is."""
    return losses if any(not _stays(loss) for loss in losses) else []


def _terms(recipe: TrainingConfig) -> list[LossOptions]:
    return [loss for s in recipe.stages if isinstance(s, GradientStage) and _tunes(s) for loss in s.losses]


def _near_start(weight: float) -> LossOptions:
    return DistillationOptions(kind="distillation", weight=weight)


def _from_teacher(recipe: TrainingConfig, teacher: str) -> TrainingConfig:
    return with_teacher(recipe, teacher) if any(_teaches(loss) for loss in _terms(recipe)) else recipe


def _with_one_tuning(
    recipe: TrainingConfig, changes: Mapping[str, Any], losses: tuple[LossOptions, ...]
) -> TrainingConfig:
    """Return the recipe with its first tuning stage changed and the others left out."""
    first = next(s for s in recipe.stages if _tunes(s))
    alone = _without(recipe, lambda stage: _tunes(stage) and stage.name != first.name)
    return alone.with_stage(first.name, **changes, losses=losses)


def _with_pca_first(recipe: TrainingConfig) -> TrainingConfig:
    """Return the recipe with a PCA before the first gradient stage: contrast compares descriptors under it."""
    if isinstance(recipe.stages[0], PcaStage):
        return recipe
    fitted = next(stage for stage in recipe.stages if isinstance(stage, PcaStage))
    first = fitted.model_copy(update={"name": "PCA before all", "select": "norm"})
    return recipe.model_copy(update={"stages": (first, *recipe.stages)})


def _with_losses(
    recipe: TrainingConfig, change: Callable[[Sequence[LossOptions]], Sequence[LossOptions]]
) -> TrainingConfig:
    """Change the losses of the tuning stages; a stage that is left without any goes."""
    stages: list[Stage] = []
    for stage in recipe.stages:
        if not (isinstance(stage, GradientStage) and _tunes(stage)):
            stages.append(stage)
        elif losses := tuple(change(stage.losses)):
            stages.append(stage.model_copy(update={"losses": losses}))
    return _tidy(recipe, stages)


def _short_names(teachers: Sequence[str]) -> list[str]:
    """Return a word for each teacher: the kind it is registered by, or the stem of its checkpoint."""
    names: list[str] = []
    for teacher in teachers:
        kind, colon, _ = teacher.partition(":")
        name = kind if colon and "/" not in kind else Path(teacher).stem
        names.append(f"{name}-{names.count(name) + 1}" if name in names else name)
    return names


# -------------------------------------------------------------------------------------------------- head


def _head_rows(recipe: TrainingConfig) -> list[AblationRow]:
    """Rows for the stages that train the attention: more distractors in its label, and longer."""
    heads = [s for s in recipe.gradient_stages if s.train == ("attention",) and s.steps]
    if not heads:
        return []
    crowded = longer = recipe
    for stage in heads:
        crowded = crowded.with_stage(stage.name, batch=_CROWD * stage.batch)
        longer = longer.with_stage(stage.name, steps=2 * stage.steps)
    return [
        AblationRow("crowded", f"head: {_CROWD} x the distractors in its label", crowded),
        AblationRow("longer", "head: twice the steps", longer),
    ]


# -------------------------------------------------------------------------------------------- extraction


def _extraction_rows(recipe: TrainingConfig, extraction: ExtractionConfig) -> list[AblationRow]:
    rows = [
        AblationRow("scales-1", "scales up to 1", recipe, _up_to_one(extraction)),
        AblationRow("no-fill", "no finer levels for crops", recipe, {"fill_scales": ()}),
        *[AblationRow(f"features-{n}", f"{n} features", recipe, {"max_features": n}) for n in _FEATURES],
    ]
    return _changing(rows, extraction)


def _slow_rows(recipe: TrainingConfig, extraction: ExtractionConfig) -> list[AblationRow]:
    small = {"max_image_size": 800}
    rows = [
        AblationRow("px-800", "800 px", recipe, small),
        AblationRow("px-800-scales-1", "800 px, scales up to 1", recipe, {**small, **_up_to_one(extraction)}),
        AblationRow("scales-7", "the paper's seven scales", recipe, {"scales": _SEVEN, "fill_scales": ()}),
    ]
    return _changing(rows, extraction)


def _up_to_one(extraction: ExtractionConfig) -> dict[str, Any]:
    # A scale that is there for every image must not come a second time for small ones.
    return {
        "scales": tuple(sorted({*extraction.scales, 1.0})),
        "fill_scales": tuple(s for s in extraction.fill_scales if s != 1.0),
    }


def _changing(rows: Sequence[AblationRow], extraction: ExtractionConfig) -> list[AblationRow]:
    return [r for r in rows if any(getattr(extraction, key) != value for key, value in r.extraction.items())]
