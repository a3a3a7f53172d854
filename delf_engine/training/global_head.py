"""Fits the global head of a checkpoint: how pooled vectors of photographs are whitened; no gradients.

Fit it on other photographs than those that are searched or measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from delf_engine.config import Config, Count, load_profile, parse_config
from delf_engine.errors import ConfigError, DataError, ImageError
from delf_engine.extraction import Extractor
from delf_engine.images import find_images
from delf_engine.model import GlobalHead, checkpoint_path, load_checkpoint
from delf_engine.model.checkpoint import global_head_beside
from delf_engine.model.network import GlobalLayer
from delf_engine.model.pooling import POOLINGS
from delf_engine.training.projection import spread
from delf_engine.training.sources.mined import MinedPair, places, read_pairs
from delf_engine.vectors import Whitening, learned_whitening, pca_whitening

PathLike = str | os.PathLike[str]

_EXPONENT = 3.0  # of GeM, before any training


class GlobalHeadConfig(Config):
    """The global descriptor of a checkpoint.

    Attributes
    ----------
    pooling : str
        How a map becomes one vector, see `delf_engine.model.pooling`: the methods that need no words or parts.
    dim : int
        Components that whitening keeps.
    levels : int or None
        How many levels of the pyramid are pooled, the largest first; None: all.
    whitening : "pca" or "learned"
        In a recipe: by PCA, or learned from the mined pairs that are given.
    photographs : int or None
        Fit on at most this many, evenly spread; None: all.
    """

    pooling: Literal["attention", "attention_rmac", "crow", "gap", "gem", "mac", "rmac", "scda", "spoc"] = "gem"
    dim: Count
    levels: Count | None = None
    whitening: Literal["pca", "learned"] = "pca"
    photographs: Count | None = None

    def pairs(self, given: PathLike | None) -> PathLike | None:
        """Return the file of pairs to learn from, of that which a run was given; None: PCA.

        Raises
        ------
        ConfigError
            If whitening is to be learned, and there is none.
        """
        if self.whitening == "learned" and given is None:
            raise ConfigError("the recipe learns its whitening from mined pairs: give their file, --pairs FILE")
        return given if self.whitening == "learned" else None


def fit_global_head(
    model: PathLike,
    photos: Sequence[PathLike],
    *,
    dim: int,
    pooling: str = "rmac",
    levels: int | None = None,
    pairs: PathLike | None = None,
    profile: PathLike | None = None,
    out: PathLike | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda *_: None,
    on_error: Callable[[str, ImageError], None] | None = None,
) -> GlobalHead:
    """Fit the global head of a checkpoint on photographs, and write it beside the checkpoint.

    Parameters
    ----------
    model : str or path
        Checkpoint by name or path.
    photos : sequence of path
        Image files and folders; others than those that will be searched or measured.
    dim, pooling, levels
        See `GlobalHeadConfig`.
    pairs : path or None
        File of mined pairs: those with both photographs among `photos` say which vectors should be alike, and the
        whitening is learned from them. None: PCA whitening.
    profile : str, path or None
        Take maps by the extraction options of this profile; None: of the checkpoint's own.
    out : path or None
        File to write, completely or not at all; None: ``NAME.global.safetensors`` beside the checkpoint, where it
        is found.
    device : str
    progress : callable
        Called with photographs done, and their number.
    on_error : callable or None
        Called with each photograph that cannot be read; None: a warning for each.

    Returns
    -------
    GlobalHead

    Raises
    ------
    CheckpointError
        If the checkpoint is missing or damaged.
    ConfigError, DataError
        If the options cannot be used, or there are too few photographs or pairs for `dim`.
    FormatError
        If the file of pairs is none.
    """
    values = {"pooling": pooling, "dim": dim, "levels": levels}
    config = parse_config(GlobalHeadConfig, values, where="global head")
    network, info = load_checkpoint(model)
    extractor = Extractor(network, load_profile(profile or info.profile).extraction, info=info, device=device)
    head = fit_head(extractor, find_images(photos), config, pairs, progress, on_error)
    head.save(out or global_head_beside(checkpoint_path(model)))
    return head


def fit_head(
    extractor: Extractor,
    photos: Sequence[str],
    config: GlobalHeadConfig,
    pairs: PathLike | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    on_error: Callable[[str, ImageError], None] | None = None,
) -> GlobalHead:
    """Fit a head to the maps of an extractor; see `fit_global_head`, which it is the inner part of."""
    photos = spread(photos, config.photographs)
    found = None if pairs is None else read_pairs(pairs)[0]  # before the long part: it may be damaged
    bare = _bare(extractor, config)
    extractor.global_head = bare
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    for done, (path, features) in enumerate(extractor.extract_many(photos, on_error=on_error), 1):
        if features.global_descriptor is not None and features.global_descriptor.any():
            vectors[os.path.realpath(path)] = features.global_descriptor
        progress(done, len(photos))
    if len(vectors) < 2:
        raise DataError(f"{len(vectors)} of {len(photos)} photographs gave a vector; whitening needs at least 2")
    stacked = np.stack(list(vectors.values()))
    if found is None:
        whitening = pca_whitening(stacked, config.dim)
    else:
        try:
            whitening = _learned(stacked, list(vectors), found, config.dim)
        except DataError as error:
            raise DataError(f"{pairs}: {error}") from error
    model = "" if extractor.info is None else extractor.info.identity
    single = whitening.mean.astype(np.float32), whitening.matrix.astype(np.float32)
    return GlobalHead(config.pooling, *single, bare.parameters, config.levels, model)


def start_layer(layer: GlobalLayer, head: GlobalHead) -> None:
    """Give a layer that is to be trained what a head was fitted to, of pooling GeM."""
    mean, matrix = (torch.from_numpy(array) for array in (head.mean.astype(float), head.matrix.astype(float)))
    with torch.no_grad():
        layer.p.fill_(float(head.parameters["p"]))
        layer.linear.weight.copy_(matrix.T)
        layer.linear.bias.copy_(-mean @ matrix)


def finished_head(layer: GlobalLayer, config: GlobalHeadConfig, model: str) -> GlobalHead:
    """Return the head that a trained layer has become."""
    weight, bias = (t.detach().cpu().double().numpy() for t in (layer.linear.weight, layer.linear.bias))
    mean = -np.linalg.pinv(weight) @ bias  # the shortest that gives this bias
    parameters = {"p": layer.p.detach().cpu().numpy()}
    single = mean.astype(np.float32), np.ascontiguousarray(weight.T, np.float32)
    return GlobalHead(config.pooling, *single, parameters, config.levels, model)


def _bare(extractor: Extractor, config: GlobalHeadConfig) -> GlobalHead:
    """Return a head that pools and does not whiten."""
    given: Mapping[str, npt.NDArray[np.float32]] = {}
    if config.pooling == "gem":
        given = {"p": np.array(_EXPONENT, np.float32)}
    cells, scores = torch.ones(1, extractor.network.trunk.channels, 2, 2), torch.ones(1, 2, 2)
    tensors = {name: torch.from_numpy(value) for name, value in given.items()}
    pooled = POOLINGS[config.pooling](cells, scores, **tensors).shape[1]
    if config.dim > pooled:
        raise ConfigError(f"{config.pooling} gives {pooled} components, {config.dim} are wanted; ask for fewer")
    return GlobalHead(
        config.pooling, np.zeros(pooled, np.float32), np.eye(pooled, dtype=np.float32), given, config.levels
    )


def _learned(
    vectors: npt.NDArray[np.float32], names: Sequence[str], pairs: Sequence[MinedPair], dim: int
) -> Whitening:
    """Learn from the pairs of two of the named photographs, behind PCA where they span less than the vectors."""
    rows = {name: row for row, name in enumerate(names)}
    kept = [pair for pair in pairs if {os.path.realpath(pair.a), os.path.realpath(pair.b)} <= rows.keys()]
    alike = np.array([[rows[os.path.realpath(path)] for path in (pair.a, pair.b)] for pair in kept], np.int64)
    place = places(kept)
    # n photographs of a place differ in n - 1 directions; half as many can be told from noise.
    spanned = (len(place) - len(set(place.values()))) // 2
    if spanned < dim:
        raise DataError(
            f"{len(kept)} of {len(pairs)} pairs are of two photographs that were given and can be read; they are "
            f"enough for {spanned} dimensions, {dim} are wanted: mine more, ask for fewer, or do without pairs"
        )
    if spanned >= vectors.shape[1]:
        return learned_whitening(vectors, alike, dim)
    pca = pca_whitening(vectors, spanned, power=0)
    inner = learned_whitening((vectors - pca.mean) @ pca.matrix, alike, dim)
    # The directions of PCA are orthonormal, so the inner mean can be said in the outer space.
    return Whitening(pca.mean + pca.matrix @ inner.mean, pca.matrix @ inner.matrix)
