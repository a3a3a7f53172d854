"""The whole recipe: photographs in, a network and its description out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delf_engine.errors import DataError, ImageError
from delf_engine.model.checkpoint import CheckpointInfo
from delf_engine.model.network import DelfNetwork
from delf_engine.support.threads import usable_cores
from delf_engine.training.config import GradientStage, Precision, TrainingConfig
from delf_engine.training.datasets import hold_out
from delf_engine.training.labels import labelled_photographs
from delf_engine.training.run import Progress, Run
from delf_engine.training.teaching import with_teacher
from delf_engine.training.trainer import Log
from delf_engine.training.weights import read_state
from delf_engine.training.work import Work, photographs_key

__all__ = ["Trained", "load_trunk_weights", "split", "split_photographs", "train"]

load_trunk_weights = read_state


@dataclass(frozen=True)
class Trained:
    """A trained network, the state to save, what to say of it, and what was measured on the way.

    `history` holds for each gradient stage the steps and the figures measured after them.
    """

    network: DelfNetwork
    info: CheckpointInfo
    history: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]

    @property
    def state(self) -> dict[str, Any]:
        """Weights by name as NumPy arrays."""
        weights = self.network.state_dict()
        if self.info.attention == "norm":  # no stage trained the head, and it is no part of the checkpoint
            weights = {key: value for key, value in weights.items() if not key.startswith("attention.")}
        return {key: value.detach().contiguous().numpy() for key, value in weights.items()}


def train(
    photos: Sequence[str],
    config: TrainingConfig,
    trunk_weights: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    data: str = "",
    licence: str = "Apache-2.0",
    work: str | os.PathLike[str] | None = None,
    on_error: Callable[[str, ImageError], None],
    progress: Progress | None = None,
    on_figures: Callable[[str, int, Mapping[str, float]], None] | None = None,
    log: Log | None = None,
    device: str = "auto",
    precision: Precision | None = None,
    cache_gb: float = 8.0,
    workers: int | None = None,
    roots: Sequence[str | os.PathLike[str]] = (),
    pairs: str | os.PathLike[str] | None = None,
    teacher: str | None = None,
    checkpoint_seconds: float = 120.0,
    checkpoint_steps: int | None = None,
) -> Trained:
    """Train a network by a recipe.

    Parameters
    ----------
    photos : sequence of path
    config : TrainingConfig
    trunk_weights : path or None
        safetensors or a torch state dict with torchvision's names, with batch norm or folded; or a checkpoint of
        this package by name, path or URL. None: what the recipe names, else torchvision's ImageNet weights.
    seed : int
        Same photographs, recipe, options and seed on the same machine give the same bits.
    data, licence : str
        Words for the model card.
    work : path or None
        Folder for finished stages and the state of the one that runs: a run that was interrupted or killed goes on
        from there when called again with the same photographs, recipe, weights and seed. A change of a later
        stage leaves earlier ones as they are.
    on_error : callable
        Called once with each photograph that cannot be read.
    progress, on_figures, log
        See `trainer.Reports`.
    device : str
        "auto", "cpu", "cuda".
    precision : "auto", "fp32", "bf16", "fp16" or None
        Of all stages, in place of what the recipe says.
    cache_gb : float
        Maps of rendered views that are kept, 10^9 bytes; what does not fit is computed again when it is drawn.
    workers : int or None
        Threads that decode; None: as many as cores. Results do not depend on it.
    roots : sequence of path
        Files and folders the photographs came from, for sources that read labels there.
    pairs : path or None
        File of mined pairs, for recipes that draw from it.
    teacher : str or None
        In place of the recipe's teacher.
    checkpoint_seconds, checkpoint_steps
        How often a running stage writes its state.

    Raises
    ------
    DataError
        If there are too few readable photographs, or training diverges.
    CheckpointError
        If the trunk's weights are missing or do not fit.
    ConfigError
        If the recipe cannot work with the data or the machine.
    LockedError
        If another training runs in `work`.
    """
    held_in, held_out = split(photos, config, roots, seed)
    if teacher is not None:
        config = with_teacher(config, teacher)
    with Work(work) as folder:
        run = Run(
            config,
            held_in=held_in,
            held_out=held_out,
            seed=seed,
            work=folder,
            on_error=_once(on_error),
            progress=progress,
            on_figures=on_figures,
            log=log,
            device=device,
            precision=precision,
            cache_bytes=int(cache_gb * 1e9),
            workers=workers or usable_cores(),
            roots=[Path(root) for root in roots],
            pairs=None if pairs is None else Path(pairs),
            checkpoint_seconds=checkpoint_seconds,
            checkpoint_steps=checkpoint_steps,
        )
        figures = run.run(trunk_weights)
    network = run.network.to("cpu").eval().requires_grad_(False)
    info = CheckpointInfo(
        format_version=2,
        name=config.name,
        architecture=config.architecture,
        dim=config.dim,
        attention_hidden=config.attention.hidden,
        attention_norm_weighted=config.attention.norm_weighted,
        attention="head" if run.attends else "norm",
        profile=config.profile,
        preprocessing="RGB in [0, 1], minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
        data=data or f"{len(photos)} photographs{'' if _uses_labels(config) else ' without labels'}",
        training_data_sha256=photographs_key(photos),
        recipe=config.model_dump_json(),
        licence=licence,
        seed=seed,
        figures=figures,
    )
    return Trained(network, info, run.history)


def split(
    photos: Sequence[str], config: TrainingConfig, roots: Sequence[str | os.PathLike[str]] = (), seed: int = 0
) -> tuple[list[str], list[str]]:
    """Return the photographs to train on and those to measure on, by class where the recipe has labels.

    Raises
    ------
    DataError, FormatError
        If there are too few, or the labels cannot be used.
    """
    labelled = labelled_photographs(config, roots, seed)
    if labelled is None:
        return split_photographs(photos, config.held_out_every)
    held_in, held_out = hold_out(labelled.among(photos), every=config.held_out_every, seed=seed)
    return held_in.paths(), held_out.paths()


def split_photographs(photos: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """Return the photographs to train on and those to measure on, one in `every`.

    Raises
    ------
    DataError
        If there are too few.
    """
    held_out = list(photos[every - 1 :: every])
    held_in = [p for i, p in enumerate(photos) if i % every != every - 1]
    if len(held_out) < 2:
        raise DataError(
            f"{len(photos)} photographs are too few: one in {every} is held out to measure on, and that needs "
            f"{2 * every} at least (held_out_every in the recipe)"
        )
    return held_in, held_out


def _once(on_error: Callable[[str, ImageError], None]) -> Callable[[str, ImageError], None]:
    """Report each photograph the first time only: later stages read it again."""
    seen: set[str] = set()

    def report(path: str, error: ImageError) -> None:
        if path not in seen:
            seen.add(path)
            on_error(path, error)

    return report


def _uses_labels(config: TrainingConfig) -> bool:
    return any(isinstance(s, GradientStage) and s.source.kind == "classes" for s in config.stages)
