"""`train`: from photographs to a finished checkpoint, its codebook and its model card."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.config import load_profile
from delf_engine.errors import CheckpointError, ConfigError, ImageError
from delf_engine.extraction import Extractor
from delf_engine.index import Codebook
from delf_engine.model import (
    CheckpointInfo,
    GlobalHead,
    checkpoint_path,
    read_checkpoint_info,
    save_checkpoint,
)
from delf_engine.model.checkpoint import global_head_beside
from delf_engine.model.network import DelfNetwork
from delf_engine.support.files import system_errors
from delf_engine.training.config import CodebookConfig, TrainingConfig, load_training_config
from delf_engine.training.global_head import finished_head, fit_head
from delf_engine.training.options import Progress, Reports, RunOptions
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import spread
from delf_engine.training.run import Run
from delf_engine.training.work import Work, photographs_key


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint and what goes with it are written; by default the state of the run beside them."""

    checkpoint: Path
    with_head: bool = False

    @property
    def global_head(self) -> Path:
        """What makes its global descriptor, where the recipe has one (`with_head`)."""
        return global_head_beside(self.checkpoint)

    @property
    def codebook(self) -> Path:
        """Its visual words."""
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.codebook.safetensors")

    @property
    def card(self) -> Path:
        """What a person wants to know before using it."""
        return self.checkpoint.with_suffix(".md")

    @property
    def work(self) -> Path:
        """Folder of the run's state."""
        return self.checkpoint.with_suffix(".work")

    @property
    def names(self) -> str:
        """The files, for people."""
        head = [self.global_head.name] if self.with_head else []
        return ", ".join([str(self.checkpoint), self.codebook.name, *head, self.card.name])


@dataclass(frozen=True)
class TrainingReport:
    """What `train` made.

    Attributes
    ----------
    files : CheckpointFiles
    info : CheckpointInfo
        What the checkpoint says of itself; its `figures` were measured on photographs held out.
    failed : dict of path to reason
        Photographs that could not be read.
    """

    files: CheckpointFiles
    info: CheckpointInfo
    failed: Mapping[str, str]


def train(
    photos: Sequence[str | os.PathLike[str]],
    recipe: str | os.PathLike[str] | TrainingConfig = "delf_views",
    *,
    out: str | os.PathLike[str] | None = None,
    trunk: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
    reports: Reports | None = None,
    at_most: int | None = None,
    work: str | os.PathLike[str] | None = None,
    data: str = "",
    licence: str = "Apache-2.0",
) -> TrainingReport:
    """Train a checkpoint by a recipe, and write it with its codebook, model card and, if told, global head.

    Parameters
    ----------
    photos : sequence of path
        Image files and folders; for a recipe with labels see `Photographs.find`.
    recipe : str, path or TrainingConfig
        By name (``configs/train_NAME.toml``), by path, or as it is.
    out : path or None
        Checkpoint to write; the others lie beside it. None: the recipe's name, in the current folder.
    trunk : path or None
        Weights to start from: safetensors or a torch state dict with torchvision's names, with batch norm or
        folded; or a checkpoint of this package by name or path. None: what the recipe names, else torchvision's
        ImageNet weights.
    options : RunOptions or None
    reports : Reports or None
    at_most : int or None
        Take only the first so many photographs.
    work : path or None
        Folder of finished stages and the state of the one that runs: an interrupted or killed call goes on from
        there when it is repeated with the same photographs, recipe, weights and seed. None: `out` with the ending
        ``.work``.
    data, licence : str
        Words for the model card.

    Raises
    ------
    DataError
        If there are too few readable photographs, or training diverges.
    CheckpointError
        If the trunk's weights are missing or do not fit, or a file cannot be written.
    ConfigError, FormatError
        If the recipe cannot work with the data or the machine.
    LockedError
        If another training runs in `work`.
    """
    config = recipe if isinstance(recipe, TrainingConfig) else load_training_config(recipe)
    if config.trained == {"global"}:
        raise ConfigError(
            f"recipe {config.name} trains a global head alone, and makes no checkpoint: train that of an existing "
            "one, delf-engine model train-global"
        )
    options, reports = options or RunOptions(), reports or Reports()
    files = CheckpointFiles(Path(out or f"{config.name}.safetensors"), config.global_head is not None)
    failed: dict[str, str] = {}

    def on_error(path: str, error: ImageError) -> None:
        failed[path] = error.reason
        tell(path, error)

    tell, reports = reports.error, dataclasses.replace(reports, error=on_error)
    photographs = Photographs.find(photos, config, seed=options.seed, at_most=at_most)
    trained = train_network(
        photographs, config, trunk, options, reports, work=work or files.work, data=data, licence=licence
    )
    files.global_head.unlink(missing_ok=True)  # of other weights
    save_checkpoint(files.checkpoint, trained.state, trained.info)
    extractor = Extractor.from_pretrained(
        files.checkpoint, config=load_profile(config.profile).extraction.for_codebook()
    )
    readable = [path for path in photographs.files if path not in failed]
    codebook = train_codebook(extractor, readable, config.codebook, options.seed, reports.progress)
    codebook.save(files.codebook)
    named = trained.info.model_copy(update={"codebook_sha256": codebook.hash})
    info = save_checkpoint(files.checkpoint, trained.state, named)
    if config.global_head is not None:
        head = trained.global_head(info.identity) or fit_head(
            Extractor.from_pretrained(files.checkpoint, device=options.device),
            [path for path in photographs.held_in if path not in failed],
            config.global_head,
            config.global_head.pairs(options.pairs),
            lambda done, total: reports.progress("global vectors", done, total, None),
            reports.error,
        )
        head.save(files.global_head)
    with system_errors(f"{files.card}: the model card cannot be written", CheckpointError):
        files.card.write_text(_card(info, trained), encoding="utf-8")
    return TrainingReport(files, info, failed)


@dataclass(frozen=True)
class Trained:
    """A trained network, what to say of it, and what was measured on the way.

    `history` holds for each gradient stage the steps and the figures measured after them.
    """

    network: DelfNetwork
    info: CheckpointInfo
    history: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]
    config: TrainingConfig

    @property
    def state(self) -> dict[str, Any]:
        """Weights to save, by name, as NumPy arrays."""
        weights = {k: v for k, v in self.network.state_dict().items() if not k.startswith("global_layer.")}
        if self.info.attention == "norm":  # no stage trained the head, and it is no part of the checkpoint
            weights = {key: value for key, value in weights.items() if not key.startswith("attention.")}
        return {key: value.detach().contiguous().numpy() for key, value in weights.items()}

    def global_head(self, model: str) -> GlobalHead | None:
        """Return the global head that was trained, for maps of the checkpoint of this identity; None: none was."""
        if self.network.global_layer is None or self.config.global_head is None:
            return None
        return finished_head(self.network.global_layer, self.config.global_head, model)


def train_network(
    photographs: Photographs,
    config: TrainingConfig,
    trunk: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
    reports: Reports | None = None,
    *,
    work: str | os.PathLike[str] | None = None,
    data: str = "",
    licence: str = "Apache-2.0",
) -> Trained:
    """Train a network and write nothing but the state of the run; parameters and errors are those of `train`.

    `work` may be None here: nothing is kept then. A change of a later stage leaves earlier ones as they are.
    """
    options = options or RunOptions()
    with Work(work) as folder:
        run = Run(config, photographs, options, reports or Reports(), folder)
        figures = run.run(trunk)
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
    return Trained(network, info, run.history, config)


def train_global_head(
    model: str | os.PathLike[str],
    photos: Sequence[str | os.PathLike[str]],
    recipe: str | os.PathLike[str] | TrainingConfig = "global",
    *,
    out: str | os.PathLike[str] | None = None,
    options: RunOptions | None = None,
    reports: Reports | None = None,
) -> GlobalHead:
    """Train the global head of a checkpoint by gradients, and write it; the checkpoint stays as it is.

    Parameters
    ----------
    model : str or path
        Checkpoint by name or path; its trunk and profile go before those of the recipe.
    photos, options, reports
        As of `train`.
    recipe : str, path or TrainingConfig
        One that trains "global" alone.
    out : path or None
        File to write, completely or not at all. None: beside the checkpoint, where it is found.

    Raises
    ------
    ConfigError
        If the recipe trains anything else, or the checkpoint smooths its features, which training does not.
    CheckpointError, DataError, FormatError
        As of `train`.
    """
    config = recipe if isinstance(recipe, TrainingConfig) else load_training_config(recipe)
    if config.trained != {"global"}:
        raise ConfigError(f"recipe {config.name} must train 'global' alone, since the checkpoint stays as it is")
    info = read_checkpoint_info(model)
    if info.smoothing != 1:
        raise ConfigError(f"{model}: smooths its features, and training does not; fit its head without gradients")
    options = options or RunOptions()
    config = config.model_copy(update={"architecture": info.architecture, "profile": info.profile})
    photographs = Photographs.find(photos, config, seed=options.seed)
    head = train_network(photographs, config, model, options, reports).global_head(info.identity)
    assert head is not None, "the recipe trains one"
    head.save(out or global_head_beside(checkpoint_path(model)))
    return head


def train_codebook(
    extractor: Extractor,
    photos: Sequence[str],
    config: CodebookConfig,
    seed: int,
    progress: Progress = lambda *_: None,
) -> Codebook:
    """Train the visual words that travel with a checkpoint, on the best features of each photograph.

    A `DataError` if there are fewer features than words.
    """
    photos = spread(photos, config.photographs)
    descriptors = []
    for done, (_, features) in enumerate(extractor.extract_many(photos), 1):
        descriptors.append(features.top(config.features).descriptors)
        progress("features", done, len(photos), None)
    return Codebook.train(
        np.concatenate(descriptors),
        config.words,
        iterations=config.iterations,
        seed=seed,
        half=True,
        progress=lambda done, total: progress("codebook", done, total, None),
    )


def _card(info: CheckpointInfo, trained: Trained) -> str:
    figures = "\n".join(f"| {name} | {value:.4f} |" for name, value in info.figures.items())
    history = "\n".join(
        f"| {stage} | {step} | {', '.join(f'{name} {value:.2f}' for name, value in found.items())} |"
        for stage, measured in trained.history.items()
        for step, found in measured
    )
    return f"""# {info.name}

Local features for landmarks and other rigid things: {info.dim}-D descriptors, {info.architecture} trunk cut at
conv4, attention head, PCA. Made by `delf-engine train`.

| | |
|---|---|
| training data | {info.data} |
| seed | {info.seed} |
| licence | {info.licence} |
| preprocessing | {info.preprocessing} |
| profile | {info.profile} |
| SHA-256 of the weights | `{info.sha256}` |

## Recipe

```json
{json.dumps(json.loads(info.recipe), indent=1)}
```

## Measured while training, on photographs held out

| figure | value |
|---|---|
{figures}

| stage | step | figures |
|---|---|---|
{history}
"""
