"""What a training run would do, found out on a few photographs and one step a stage; nothing is written."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from delf_engine.errors import DataError, ImageError
from delf_engine.support.threads import in_threads, usable_cores
from delf_engine.training.config import GradientStage, TrainingConfig
from delf_engine.training.options import Reports, RunOptions, autocast, deterministic
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import PcaStage, best_vectors, photo_levels, spread
from delf_engine.training.run import Run
from delf_engine.training.views import read_photograph
from delf_engine.training.work import Work

T = TypeVar("T")

_READ = 64  # photographs that are decoded, to see whether they can be
_TIMED = 5  # photographs a PCA is timed on
_STEPS = 3  # steps that are timed, of which the shortest counts


@dataclass(frozen=True)
class StagePlan:
    """One stage."""

    what: str  # its name; source, losses and parts trained, or for a PCA cells and scales
    facts: str  # steps or photographs, precision, trained numbers, size of the cache
    seconds: float  # estimated, rendering included


@dataclass(frozen=True)
class Plan:
    """What was found out."""

    device: str
    read: int  # photographs that were decoded for the plan
    unreadable: dict[str, str]  # those of them that could not be
    stages: tuple[StagePlan, ...]


def make_plan(
    photographs: Photographs,
    config: TrainingConfig,
    trunk: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
) -> Plan:
    """Plan a run; parameters and errors are those of `finish.train`.

    Every stage is built and does one step on a batch of its own, so what fails at once in training fails here too.
    """
    options = options or RunOptions()
    tried = spread([*photographs.held_in, *photographs.held_out], _READ)
    unreadable = _unreadable(tried)
    if len(unreadable) == len(tried):
        first = next(f"{path}: {reason}" for path, reason in unreadable.items())
        raise DataError(f"none of {len(tried)} photographs tried can be read, such as {first}")
    readable = dataclasses.replace(
        photographs,
        held_in=[path for path in photographs.held_in if path not in unreadable],
        held_out=[path for path in photographs.held_out if path not in unreadable],
    )
    sample = max([2, *(stage.batch for stage in config.gradient_stages)])
    run = Run(config, readable, options, Reports(), Work(None), sample=sample)
    with deterministic(run.device):
        run.start(trunk)
        stages = tuple(
            _plan_pca(run, stage) if isinstance(stage, PcaStage) else _plan_gradient(run, number, stage)
            for number, stage in enumerate(config.stages)
            if isinstance(stage, PcaStage) or stage.steps
        )
    return Plan(str(run.device), len(tried), unreadable, stages)


def _unreadable(photos: Sequence[str]) -> dict[str, str]:
    """Decode photographs; return those that cannot be, and why."""

    def problem(index: int) -> str | None:
        try:
            read_photograph(photos[index])
        except ImageError as error:
            return error.reason
        return None

    reasons = in_threads(problem, len(photos), usable_cores())
    return {path: reason for path, reason in zip(photos, reasons, strict=True) if reason is not None}


def _plan_pca(run: Run, stage: PcaStage) -> StagePlan:
    photos, dtype = spread(run.photographs.held_in, stage.photographs), run.dtype(stage)

    def one(path: str) -> None:
        with autocast(run.device, dtype):
            best_vectors(photo_levels(path, stage), run.network, stage, run.device)

    times = []
    for path in spread(photos, _TIMED):
        try:
            times.append(_seconds(one, path))
        except ImageError:
            continue
    # The shortest, as the first photograph of each shape pays for torch's own preparations.
    seconds = min(times, default=float("inf")) * len(photos)
    run.fitted = True  # not in truth: what follows takes as long with any projection
    scales = ", ".join(f"{scale:.3g}" for scale in stage.scales)
    what = f"{stage.name}: {stage.cells} cells of each, by {stage.select}, scales {scales}"
    return StagePlan(what, f"{len(photos)} photographs, {_name(dtype)}", seconds)


def _plan_gradient(run: Run, number: int, stage: GradientStage) -> StagePlan:
    run.stores.planned.clear()
    prepared = run.prepare(number, stage, None)
    rendering = sum(items * seconds for items, _, seconds in run.stores.planned.values())
    cached = min(sum(size for _, size, _ in run.stores.planned.values()), run.stores.limit)
    prepared.set_trainable(True)
    step = min(
        _seconds(lambda index: prepared.optimise([(index, prepared.source.batch(index))])(), index)
        for index in range(_STEPS)
    )
    prepared.set_trainable(False)
    run.attends = run.attends or "attention" in stage.train
    losses = " + ".join(f"{loss.weight:g} x {loss.kind}" for loss in stage.losses)
    parts = ", ".join(stage.train) or "the losses only"
    numbers = sum(parameter.numel() for parameter in prepared.parameters)
    return StagePlan(
        f"{stage.name}: {losses}; trains {parts}; {prepared.source.kind} from {stage.source.kind}",
        f"{stage.steps} steps, {_name(run.dtype(stage))}, {numbers:,} parameters, cache {cached / 1e9:.2f} GB",
        rendering + step * stage.steps * stage.accumulate,
    )


def _seconds(work: Callable[[T], object], on: T) -> float:
    began = time.monotonic()
    work(on)
    return time.monotonic() - began


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
