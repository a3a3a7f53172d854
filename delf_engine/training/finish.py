"""`train`: from photographs to a finished checkpoint, its codebook and its model card."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delf_engine.config import load_profile
from delf_engine.errors import CheckpointError, ImageError
from delf_engine.extraction import Extractor
from delf_engine.index import Codebook
from delf_engine.model import CheckpointInfo, save_checkpoint
from delf_engine.support.files import system_errors
from delf_engine.training.config import CodebookConfig, TrainingConfig, load_training_config
from delf_engine.training.options import Progress, Reports, RunOptions
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import spread
from delf_engine.training.recipe import Trained, train_network

__all__ = ["CheckpointFiles", "TrainingReport", "train", "train_codebook"]


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a checkpoint and what goes with it are written; by default the state of the run beside them."""

    checkpoint: Path

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
        """The three files, for people."""
        return f"{self.checkpoint}, {self.codebook.name}, {self.card.name}"


@dataclass(frozen=True)
class TrainingReport:
    """What `train` made.

    Attributes
    ----------
    files : CheckpointFiles
    info : CheckpointInfo
        Of the checkpoint; its `figures` were measured on photographs held out.
    failed : dict of path to reason
        Photographs that could not be read.
    """

    files: CheckpointFiles
    info: CheckpointInfo
    failed: Mapping[str, str]


def train(
    photos: Sequence[str | os.PathLike[str]],
    recipe: str | os.PathLike[str] | TrainingConfig = "delf_r18",
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
    """Train a checkpoint by a recipe, and write it with its codebook and model card.

    Parameters
    ----------
    photos : sequence of path
        Image files and folders; for a recipe with labels see `Photographs.find`.
    recipe : str, path or TrainingConfig
        By name (``configs/train_NAME.toml``), by path, or as it is.
    out : path or None
        Checkpoint to write; the others lie beside it. None: the recipe's name, in the current folder.
    trunk : path or None
        Weights to start from, see `recipe.train_network`.
    options : RunOptions or None
    reports : Reports or None
    at_most : int or None
        Take only the first so many photographs.
    work : path or None
        Folder of the run's state, from which an interrupted or killed call goes on when it is repeated. None:
        `out` with the ending ``.work``.
    data, licence : str
        Words for the model card.

    Raises
    ------
    DataError, CheckpointError, ConfigError, FormatError, LockedError
        As `recipe.train_network`; or if a file cannot be written.
    """
    config = recipe if isinstance(recipe, TrainingConfig) else load_training_config(recipe)
    options, reports = options or RunOptions(), reports or Reports()
    files = CheckpointFiles(Path(out or f"{config.name}.safetensors"))
    failed: dict[str, str] = {}

    def on_error(path: str, error: ImageError) -> None:
        failed[path] = error.reason
        tell(path, error)

    tell, reports = reports.error, dataclasses.replace(reports, error=on_error)
    photographs = Photographs.find(photos, config, seed=options.seed, at_most=at_most)
    trained = train_network(
        photographs, config, trunk, options, reports, work=work or files.work, data=data, licence=licence
    )
    save_checkpoint(files.checkpoint, trained.state, trained.info)
    extractor = Extractor.from_pretrained(
        files.checkpoint, config=load_profile(config.profile).extraction.for_codebook()
    )
    readable = [path for path in photographs.files if path not in failed]
    codebook = train_codebook(extractor, readable, config.codebook, options.seed, reports.progress)
    codebook.save(files.codebook)
    named = trained.info.model_copy(update={"codebook_sha256": codebook.hash})
    info = save_checkpoint(files.checkpoint, trained.state, named)
    with system_errors(f"{files.card}: the model card cannot be written", CheckpointError):
        files.card.write_text(_card(info, trained), encoding="utf-8")
    return TrainingReport(files, info, failed)


def train_codebook(
    extractor: Extractor,
    photos: Sequence[str],
    config: CodebookConfig,
    seed: int,
    progress: Progress = lambda *_: None,
) -> Codebook:
    """Train the visual words that travel with a checkpoint, on the best features of each photograph.

    Raises
    ------
    DataError
        If there are fewer features than words.
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
