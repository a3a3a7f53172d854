"""What a training run would do, found out on a few photographs and one step a stage; nothing is written."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from delf_engine.errors import DataError, ImageError
from delf_engine.images import load_image
from delf_engine.support.threads import usable_cores
from delf_engine.training.config import GradientStage, TrainingConfig
from delf_engine.training.device import deterministic
from delf_engine.training.options import Reports, RunOptions
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import PcaStage, best_vectors, photo_levels, spread
from delf_engine.training.run import Run
from delf_engine.training.work import Work

__all__ = ["Plan", "StagePlan", "make_plan"]

_READ = 64  # photographs that are decoded, to see whether they can be
_TIMED = 5  # photographs a PCA is timed on
_STEPS = 3  # steps that are timed, of which the shortest counts


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes
    ----------
    name, kind : str
    what : str
        Source, losses and parts trained; for a PCA the cells and scales.
    steps : int
        Optimiser steps, or photographs of a PCA.
    precision : str
    parameters : int
        Trained numbers.
    cache_bytes : int
        Of the maps it caches.
    seconds : float
        Estimated, rendering included.
    """

    name: str
    kind: str
    what: str
    steps: int
    precision: str
    parameters: int
    cache_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes
    ----------
    recipe, architecture, device : str
    photographs, held_in, held_out : int
    read : int
        Photographs that were decoded for the plan.
    unreadable : tuple of (path, reason)
        Those of them that could not be.
    stages : tuple of StagePlan
    """

    recipe: str
    architecture: str
    device: str
    photographs: int
    held_in: int
    held_out: int
    read: int
    unreadable: tuple[tuple[str, str], ...]
    stages: tuple[StagePlan, ...]


def make_plan(
    photographs: Photographs,
    config: TrainingConfig,
    trunk_weights: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
) -> Plan:
    """Plan a run; parameters are those of `recipe.train_network`.

    Every stage is built and does one step on a batch of its own, so what fails at once in training fails here too.

    Raises
    ------
    DataError, CheckpointError, ConfigError, FormatError
        As `recipe.train_network`.
    """
    options = options or RunOptions()
    read, unreadable = _read_some([*photographs.held_in, *photographs.held_out])
    bad = {path for path, _ in unreadable}
    readable = dataclasses.replace(
        photographs,
        held_in=[path for path in photographs.held_in if path not in bad],
        held_out=[path for path in photographs.held_out if path not in bad],
    )
    sample = max([2, *(stage.batch for stage in config.gradient_stages)])
    run = Run(config, readable, options, Reports(), Work(None), sample=sample)
    with deterministic(run.device):
        run.start(trunk_weights)
        stages = tuple(
            _plan_pca(run, stage) if isinstance(stage, PcaStage) else _plan_gradient(run, number, stage)
            for number, stage in enumerate(config.stages)
            if isinstance(stage, PcaStage) or stage.steps
        )
    return Plan(
        recipe=config.name,
        architecture=config.architecture,
        device=str(run.device),
        photographs=len(photographs.files),
        held_in=len(photographs.held_in),
        held_out=len(photographs.held_out),
        read=read,
        unreadable=tuple(unreadable),
        stages=stages,
    )


def _read_some(photos: Sequence[str]) -> tuple[int, list[tuple[str, str]]]:
    """Decode some photographs; return how many, and which could not be."""
    chosen = spread(photos, _READ)

    def problem(path: str) -> str | None:
        try:
            load_image(path)
        except ImageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        reasons = list(pool.map(problem, chosen))
    unreadable = [(path, reason) for path, reason in zip(chosen, reasons, strict=True) if reason is not None]
    if len(unreadable) == len(chosen):
        raise DataError(f"none of {len(chosen)} photographs tried can be read, such as {': '.join(unreadable[0])}")
    return len(chosen), unreadable


def _plan_pca(run: Run, stage: PcaStage) -> StagePlan:
    photos = spread(run.photographs.held_in, stage.photographs)
    # The shortest, as the first photograph of each shape pays for torch's own preparations.
    seconds = min(_timed_photograph(run, stage, path) for path in spread(photos, _TIMED)) * len(photos)
    run.fitted = True  # not in truth: what follows takes as long with any projection
    what = f"{stage.cells} cells of each, by {stage.select}, scales {', '.join(f'{s:.3g}' for s in stage.scales)}"
    return StagePlan(stage.name, "pca", what, len(photos), _name(run.dtype(stage)), 0, 0, seconds)


def _plan_gradient(run: Run, number: int, stage: GradientStage) -> StagePlan:
    run.stores.planned.clear()
    prepared = run.prepare(number, stage, None)
    rendering = sum(items * seconds for items, _, seconds in run.stores.planned.values())
    cache_bytes = sum(size for _, size, _ in run.stores.planned.values())
    prepared.set_trainable(True)
    seconds = min(_timed_step(prepared, index) for index in range(_STEPS)) * stage.steps * stage.accumulate
    prepared.set_trainable(False)
    run.attends = run.attends or "attention" in stage.train
    losses = " + ".join(f"{loss.weight:g} x {loss.kind}" for loss in stage.losses)
    parts = ", ".join(stage.train) or "the losses only"
    return StagePlan(
        stage.name,
        "gradient",
        f"{losses}; trains {parts}; {prepared.source.kind} from {stage.source.kind}",
        stage.steps,
        _name(run.dtype(stage)),
        sum(p.numel() for p in prepared.parameters),
        min(cache_bytes, run.stores.limit),
        rendering + seconds,
    )


def _timed_photograph(run: Run, stage: PcaStage, path: str) -> float:
    dtype = run.dtype(stage)
    began = time.monotonic()
    try:
        with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
            best_vectors(photo_levels(path, stage), run.network, stage, run.device)
    except ImageError:
        return float("inf")
    return time.monotonic() - began


def _timed_step(prepared: Any, index: int) -> float:
    began = time.monotonic()
    prepared.optimise([(index, prepared.source.batch(index))])
    return time.monotonic() - began


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
