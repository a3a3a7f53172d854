"""From photographs to a network and what is to be said of it, by a recipe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from delf_engine.errors import ImageError
from delf_engine.model.checkpoint import CheckpointInfo
from delf_engine.model.network import DelfNetwork
from delf_engine.training.config import TrainingConfig
from delf_engine.training.options import Reports, RunOptions
from delf_engine.training.photographs import Photographs
from delf_engine.training.run import Run
from delf_engine.training.work import Work, photographs_key

__all__ = ["Trained", "train_network"]


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


def train_network(
    photographs: Photographs,
    config: TrainingConfig,
    trunk_weights: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
    reports: Reports | None = None,
    *,
    work: str | os.PathLike[str] | None = None,
    data: str = "",
    licence: str = "Apache-2.0",
) -> Trained:
    """Train a network; `delf_engine.training.train` does this and writes a finished checkpoint.

    Parameters
    ----------
    photographs : Photographs
    config : TrainingConfig
    trunk_weights : path or None
        safetensors or a torch state dict with torchvision's names, with batch norm or folded; or a checkpoint of
        this package by name or path. None: what the recipe names, else torchvision's ImageNet weights.
    options : RunOptions or None
    reports : Reports or None
    work : path or None
        Folder for finished stages and the state of the one that runs: a run that was interrupted or killed goes on
        from there when called again with the same photographs, recipe, weights and seed. A change of a later
        stage leaves earlier ones as they are.
    data, licence : str
        Words for the model card.

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
    options, reports = options or RunOptions(), reports or Reports()
    reports = dataclasses.replace(reports, error=_once(reports.error))
    with Work(work) as folder:
        run = Run(config, photographs, options, reports, folder)
        figures = run.run(trunk_weights)
    network = run.network.to("cpu").eval().requires_grad_(False)
    unlabelled = " without labels" if photographs.labelled is None else ""
    info = CheckpointInfo(
        name=config.name,
        architecture=config.architecture,
        dim=config.dim,
        attention_hidden=config.attention.hidden,
        attention_norm_weighted=config.attention.norm_weighted,
        attention="head" if run.attends else "norm",
        profile=config.profile,
        preprocessing="RGB in [0, 1], minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
        data=data or f"{len(photographs.files)} photographs{unlabelled}",
        training_data_sha256=photographs_key(photographs.files),
        recipe=config.model_dump_json(),
        licence=licence,
        seed=options.seed,
        figures=figures,
    )
    return Trained(network, info, run.history)


def _once(report: Callable[[str, ImageError], None]) -> Callable[[str, ImageError], None]:
    """Report each photograph the first time only: later stages read it again."""
    seen: set[str] = set()

    def first(path: str, error: ImageError) -> None:
        if path not in seen:
            seen.add(path)
            report(path, error)

    return first
