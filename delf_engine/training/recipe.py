"""The whole recipe: photographs without labels in, a network and its description out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from delf_engine.errors import CheckpointError, DataError, ImageError
from delf_engine.model.backbones import Trunk, build_trunk
from delf_engine.model.checkpoint import CheckpointInfo
from delf_engine.model.network import AttentionHead, DelfNetwork, Projection
from delf_engine.training.config import TrainingConfig
from delf_engine.training.maps import ViewMaps, conv4_maps, render_maps
from delf_engine.training.match_head import match_precision, train_match_head
from delf_engine.training.projection import fit_projection
from delf_engine.training.tuning import tune_trunk

__all__ = ["Trained", "load_trunk_weights", "train"]

#: Called with the stage's name, steps done, steps in all, and the loss where there is one.
Progress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class Trained:
    """A trained network, the state to save, and what to say of it."""

    network: DelfNetwork
    info: CheckpointInfo

    @property
    def state(self) -> dict[str, Any]:
        """Weights by name as NumPy arrays."""
        return {key: value.detach().contiguous().numpy() for key, value in self.network.state_dict().items()}


def train(
    photos: Sequence[str],
    config: TrainingConfig,
    trunk_weights: str | os.PathLike[str],
    *,
    seed: int = 0,
    data: str = "",
    licence: str = "Apache-2.0",
    work: str | os.PathLike[str] | None = None,
    on_error: Callable[[str, ImageError], None],
    progress: Progress | None = None,
) -> Trained:
    """Train a network from single photographs without labels.

    The trunk's conv4 is tuned by dense contrast between augmented views, held near its start by distillation; the
    attention head learns which cells will be matched correctly; PCA is fitted on whole photographs.

    Parameters
    ----------
    photos : sequence of path
    config : TrainingConfig
    trunk_weights : path
        safetensors with torchvision's names, with batch norm or folded.
    seed : int
        Same photographs, recipe and seed on the same machine give the same bits.
    data, licence : str
        Words for the model card.
    work : path or None
        Folder for the result of each finished stage; a run that was interrupted goes on behind the
        last of them when called again with the same photographs, recipe, weights and seed.
    on_error : callable
        Called with each photograph that cannot be read.
    progress : callable or None

    Raises
    ------
    DataError
        If there are too few readable photographs.
    CheckpointError
        If the trunk's weights are missing or do not fit.
    """
    held_in, held_out = _split(photos, config.held_out_every)
    weights = load_trunk_weights(trunk_weights)
    stages = _Stages(work, _run_key(photos, config, weights, seed))
    report = progress or (lambda *_: None)
    trunk = build_trunk(config.architecture, weights).requires_grad_(False)
    trunk = trunk.to(memory_format=torch.channels_last)

    def views(paths: Sequence[str], name: str, offset: int) -> ViewMaps:
        return render_maps(
            paths,
            trunk,
            config.views,
            seed=seed + offset,
            on_error=on_error,
            progress=lambda done, total: report(name, done, total, None),
        )

    conv3 = views(held_in, "views", 0)
    conv3_out = views(held_out, "held-out views", 1)

    def fit(network_trunk: Trunk, head: AttentionHead | None, name: str) -> Projection:
        return fit_projection(
            held_in,
            network_trunk,
            head,
            config.dim,
            config.projection,
            progress=lambda done, total: report(name, done, total, None),
        )

    def tune() -> dict[str, Tensor]:
        start = fit(trunk, None, "PCA of the start")
        tuned = tune_trunk(
            trunk,
            start,
            conv3,
            config.tuning,
            seed=seed,
            progress=lambda done, total, loss: report("conv4", done, total, loss),
        )
        return tuned.state_dict()

    tuned = build_trunk(config.architecture, stages.run("trunk", tune)).requires_grad_(False)
    # Save in half precision what will be shipped in half precision: head and PCA see the rounded trunk.
    tuned.load_state_dict({k: v.half().float() for k, v in tuned.state_dict().items()})
    tuned = tuned.to(memory_format=torch.channels_last)
    conv4, conv4_out = conv4_maps(conv3, tuned), conv4_maps(conv3_out, tuned)
    first = _projection(trunk, config, stages.run("first_pca", lambda: fit(tuned, None, "first PCA").state_dict()))

    def train_head() -> dict[str, Tensor]:
        return train_match_head(
            first,
            conv4,
            config.head,
            seed=seed,
            progress=lambda done, total, loss: report("attention", done, total, loss),
        ).state_dict()

    head = AttentionHead(trunk.channels, config.head.hidden, norm_weighted=config.head.norm_weighted)
    head.load_state_dict(stages.run("head", train_head))
    head = head.eval().requires_grad_(False)
    final = _projection(trunk, config, stages.run("pca", lambda: fit(tuned, head, "PCA").state_dict()))

    network = DelfNetwork(
        config.architecture,
        config.dim,
        hidden=config.head.hidden,
        norm_weighted=config.head.norm_weighted,
        trunk=tuned,
    )
    network.attention, network.projection = head, final
    figures = {
        "held-out match precision of the better half, by norm": match_precision(
            None, final, conv4_out, config.head, seed=seed
        ),
        "held-out match precision of the better half, by attention": match_precision(
            head, final, conv4_out, config.head, seed=seed
        ),
    }
    info = CheckpointInfo(
        format_version=1,
        name=config.name,
        architecture=config.architecture,
        dim=config.dim,
        attention_hidden=config.head.hidden,
        attention_norm_weighted=config.head.norm_weighted,
        profile=config.profile,
        preprocessing="RGB in [0, 1], minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)",
        data=data or f"{len(photos)} photographs without labels",
        recipe=config.model_dump_json(),
        licence=licence,
        seed=seed,
        figures=figures,
    )
    return Trained(network.eval(), info)


def load_trunk_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a trunk's safetensors file.

    Raises
    ------
    CheckpointError
        If it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{os.fspath(path)}: not a readable safetensors file of a trunk: {error}") from error


def _split(photos: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    held_out = list(photos[every - 1 :: every])
    held_in = [p for i, p in enumerate(photos) if i % every != every - 1]
    if len(held_out) < 2:
        raise DataError(
            f"{len(photos)} photographs are too few: one in {every} is held out to measure on, and that needs "
            f"{2 * every} at least (held_out_every in the recipe)"
        )
    return held_in, held_out


def _run_key(photos: Sequence[str], config: TrainingConfig, weights: dict[str, Tensor], seed: int) -> str:
    stages = config.model_dump(exclude={"codebook"})  # trained behind them, from the finished checkpoint
    digest = hashlib.sha256(json.dumps([stages, seed, torch.__version__], sort_keys=True).encode())
    for photo in photos:
        path = Path(photo)
        digest.update(f"{path.name} {path.stat().st_size if path.exists() else -1}\n".encode())
    for key in sorted(weights):
        digest.update(key.encode() + np.ascontiguousarray(weights[key].numpy()).tobytes())
    return digest.hexdigest()


def _projection(trunk: Trunk, config: TrainingConfig, state: dict[str, Tensor]) -> Projection:
    projection = Projection(trunk.channels, config.dim)
    projection.load_state_dict(state)
    return projection


class _Stages:
    """Results of finished stages on disk, so that an interrupted run goes on where it was."""

    def __init__(self, work: str | os.PathLike[str] | None, key: str) -> None:
        self.folder = None if work is None else Path(work) / key[:16]
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the stage's tensors, from disk if they are there."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            tensors = {key: value.detach().contiguous() for key, value in compute().items()}
            temporary = path.with_suffix(".tmp")
            save_file(tensors, temporary)
            os.replace(temporary, path)
        return load_file(path)
