"""One row of the ablation with one seed: train, fit, extract, verify, measure; nothing twice.

What a row depends on is hashed, and its result lies under that hash: rows that differ only in how features are
extracted share a checkpoint, stages that recipes have in common are trained once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.common import by_homography, rank_features
from benchmarks.revisited.ranking_rules import Row, ranked_by_rules, row_of, verify_all
from benchmarks.revisited.sub_rparis import searched, unranked
from benchmarks.training.ablation_rows import AblationRow
from delf_engine import AsmkIndex, Codebook, Extractor, LocalFeatures, __version__
from delf_engine.cli.console import staged_progress
from delf_engine.config import Profile
from delf_engine.errors import DataError, ImageError
from delf_engine.evaluation import GroundTruth
from delf_engine.extraction.runtime import choose_device
from delf_engine.model import CheckpointInfo, load_checkpoint, save_checkpoint
from delf_engine.model.network import DelfNetwork, Projection
from delf_engine.training.config import PcaStage, TrainingConfig, teacher_names
from delf_engine.training.finish import train_codebook, train_network
from delf_engine.training.options import Reports, RunOptions, autocast_dtype
from delf_engine.training.photographs import Photographs
from delf_engine.training.projection import best_vectors, fit_pca, photo_levels, spread
from delf_engine.training.registry import teacher_file
from delf_engine.training.work import file_digest, photographs_key

__all__ = ["COLUMNS", "Bench"]

#: Columns of the table, and what they are called in results.
COLUMNS = ("ASMK", "similarity", "inliers", "weighted")

_LARGEST_DIM = 128


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Attributes
    ----------
    photos : sequence of path
        To train on, and for the codebooks.
    truth : GroundTruth
    data : path
        Folder that holds the photographs `truth` names.
    profile : Profile
    trunk : str or None
        Weights to start from.
    pairs : path or None
        Mined pairs, for recipes that draw them.
    out : path
        Folder of results, checkpoints and what they are made of.
    words, codebook_photos : int
        Size of each codebook, and of how many photographs it is made.
    ransac_seeds : int
    device : str
    cache_gb : float
    """

    photos: Sequence[str]
    truth: GroundTruth
    data: Path
    profile: Profile
    trunk: str | None
    pairs: Path | None
    out: Path
    words: int = 4096
    codebook_photos: int = 400
    ransac_seeds: int = 3
    device: str = "auto"
    cache_gb: float = 8.0

    def result(self, row: AblationRow, seed: int, *, compute: bool = True) -> dict[str, Any] | None:
        """Return what a row gives with a seed, from disk if it is there; None if it is not to be computed."""
        facts = self.facts(row, seed)
        path = self.out / f"{_hash(facts)}.json"
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        if not compute:
            return None
        began = time.perf_counter()
        columns, figures = self._measure(row, seed, self.out / "features" / path.stem)
        seconds = time.perf_counter() - began
        result = {
            "row": row.key,
            "label": row.label,
            "seed": seed,
            "columns": columns,
            "training_figures": figures,
            "seconds": seconds,
            "facts": facts,
        }
        _write(path, json.dumps(result, indent=1))
        shutil.rmtree(self.out / "features" / path.stem, ignore_errors=True)
        return result

    def facts(self, row: AblationRow, seed: int) -> dict[str, Any]:
        """Return all that a row's result depends on, but for the code of this version."""
        profile = self.profile
        return {
            **self._network_facts(row, seed),
            "extraction": {**profile.extraction.model_dump(mode="json"), **_plain(row.extraction)},
            "asmk": profile.asmk.model_dump(mode="json"),
            "verification": by_homography(profile.verification).model_dump(mode="json"),
            "ranking": profile.ranking.model_dump(mode="json"),
            "ransac_seeds": self.ransac_seeds,
            "queries": list(self.truth.query_names),
            "gallery": _hash(list(self.truth.names)),
        }

    def _network_facts(self, row: AblationRow, seed: int) -> dict[str, Any]:
        return {
            **self._training_facts(row.recipe, seed),
            "dim": row.dim or row.recipe.dim,
            "refits": row.refits,
            "smoothing": row.smoothing,
            "whitening": row.whitening,
            "words": self.words,
            "codebook_photos": self.codebook_photos,
            "codebook_extraction": self.profile.extraction.for_codebook().model_dump(mode="json"),
        }

    def _training_facts(self, recipe: TrainingConfig, seed: int) -> dict[str, Any]:
        teachers = {name: file_digest(teacher_file(name)) for name in teacher_names(recipe.gradient_stages)}
        return {
            "version": __version__,
            "torch": torch.__version__,
            "device": choose_device(self.device).type,
            "arithmetic": str(autocast_dtype("auto", choose_device(self.device))),
            "recipe": recipe.model_dump(mode="json", exclude={"name", "codebook"}),
            "seed": seed,
            "trunk": file_digest(self.trunk),
            "photographs": photographs_key(self.photos),
            "teachers": teachers,
            "pairs": file_digest(self.pairs),
        }

    # ------------------------------------------------------------------------------------------ networks

    def _network(self, row: AblationRow, seed: int) -> tuple[DelfNetwork, CheckpointInfo]:
        path = self._checkpoint(row.recipe, seed)
        network, info = load_checkpoint(path)
        if row.refits:
            network.projection = self._refitted(row, network, path)
        network.smoothing = row.smoothing
        return network, info

    def _checkpoint(self, recipe: TrainingConfig, seed: int) -> Path:
        """Return the checkpoint of a recipe, trained if it is not there."""
        path = self.out / "checkpoints" / f"{_hash(self._training_facts(recipe, seed))}.safetensors"
        if path.is_file():
            return path
        with staged_progress(quiet=not sys.stderr.isatty()) as progress:
            trained = train_network(
                Photographs.split(self.photos, recipe.held_out_every),
                recipe,
                self.trunk,
                RunOptions(seed, device=self.device, cache_gb=self.cache_gb, pairs=self.pairs),
                Reports(_unreadable, progress),
                # One folder for all: stages that recipes have in common from their start on are found there.
                work=self.out / "work",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, trained.state, trained.info)
        return path

    def _refitted(self, row: AblationRow, network: DelfNetwork, checkpoint: Path) -> Projection:
        """Return a PCA of another dimension, or half-whitened: the first components of one large PCA."""
        path = self.out / "pca" / f"{checkpoint.stem}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(self._large_pca(row.recipe, network), path)
        fitted, dim = load_file(path), row.dim or row.recipe.dim
        if dim > len(fitted["components"]):
            raise DataError(
                f"{row.label}: the photographs allow a PCA to {len(fitted['components'])} dimensions only; "
                "leave the row out"
            )
        scale = fitted["variances"][:dim, None] ** (-row.whitening / 2)
        projection = Projection(len(fitted["mean"]), dim)
        projection.mean.copy_(torch.from_numpy(fitted["mean"]))
        projection.components.copy_(torch.from_numpy((scale * fitted["components"][:dim]).astype(np.float32)))
        return projection

    def _large_pca(self, recipe: TrainingConfig, network: DelfNetwork) -> dict[str, Any]:
        """Fit the recipe's last PCA with many dimensions, as its own stage does."""
        stage = recipe.stages[-1]
        assert isinstance(stage, PcaStage)
        held_in = Photographs.split(self.photos, recipe.held_out_every).held_in
        device = choose_device(self.device)
        dtype = autocast_dtype(stage.precision, device)
        # The trainer's memory layout: rounding in half precision depends on it.
        network = network.to(device).to(memory_format=torch.channels_last)
        vectors = []
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for path in spread(held_in, stage.photographs):
                try:
                    vectors.append(best_vectors(photo_levels(path, stage), network, stage, device))
                except ImageError as error:
                    _unreadable(path, error)
        network.to("cpu")
        points = torch.cat(vectors).numpy()
        projection = fit_pca(points, min(_LARGEST_DIM, points.shape[1], len(points) - 1))
        mean, components = projection.mean.numpy(), projection.components.numpy()
        variances = ((points - mean) @ components.T).var(0).clip(1e-12)
        return {"mean": mean.copy(), "components": components.copy(), "variances": variances}

    # --------------------------------------------------------------------------------------- measurement

    def _measure(self, row: AblationRow, seed: int, features: Path) -> tuple[dict[str, Row], Mapping[str, float]]:
        network, info = self._network(row, seed)
        config = self.profile.extraction.model_copy(update=dict(row.extraction))
        extractor = Extractor(network, config, info=info, device=self.device)
        codebook = self._codebook(row, seed, network, info)
        queries, gallery = rank_features(extractor, features.name, network.dim, self.truth, self.data, features)
        return self._columns(row.label, queries, gallery, codebook), info.figures

    def _columns(
        self,
        label: str,
        queries: Mapping[str, LocalFeatures],
        gallery: Mapping[str, LocalFeatures],
        codebook: Codebook,
    ) -> dict[str, Row]:
        lists, seconds = searched(AsmkIndex(codebook, self.profile.asmk), queries, gallery)
        done = verify_all(
            queries,
            gallery,
            verification=by_homography(self.profile.verification),
            ranking=self.profile.ranking,
            seeds=self.ransac_seeds,
            title=label,
        )
        rows = {"ASMK": row_of(self.truth, [unranked(lists)], seconds), **ranked_by_rules(lists, done, self.truth)}
        return {column: rows[column] for column in COLUMNS}

    def _codebook(self, row: AblationRow, seed: int, network: DelfNetwork, info: CheckpointInfo) -> Codebook:
        """Return the codebook of a network, made from photographs."""
        path = self.out / "codebooks" / f"{_hash(self._network_facts(row, seed))}.safetensors"
        if path.is_file():
            return Codebook.load(path)
        config = row.recipe.codebook.model_copy(update={"words": self.words, "photographs": self.codebook_photos})
        extractor = Extractor(network, self.profile.extraction.for_codebook(), info=info, device=self.device)
        codebook = train_codebook(extractor, self.photos, config, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        codebook.save(path)
        return codebook


def _unreadable(path: str, error: ImageError) -> None:
    print(f"left out: {path}: {error.reason}", file=sys.stderr)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Write a file at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
