"""PCA of feature vectors over whole photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from delf_engine.config import Config, Count, Positive
from delf_engine.errors import DataError, ImageError
from delf_engine.model.network import DelfNetwork, Projection
from delf_engine.pyramid import plan_levels, resize
from delf_engine.support.processes import map_ordered
from delf_engine.training.options import Arithmetic, autocast
from delf_engine.training.views import read_photograph

Rgb = npt.NDArray[np.uint8]
StageName = Annotated[str, Field(pattern=r"^[\w][\w -]*$")]


class PcaStage(Config):
    """A stage that fits the projection by PCA on whole photographs."""

    kind: Literal["pca"]
    name: StageName = "pca"
    cells: Count  # feature vectors taken of each photograph, those of highest score over the `scales`
    scales: tuple[Positive, ...] = Field(min_length=1)
    select: Literal["norm", "attention"] = "norm"  # the score: L2 norm of the vector, or the attention head
    photographs: Count | None = None  # use at most this many, evenly spread; None: all
    precision: Arithmetic = "auto"


def fit_projection(
    photos: Sequence[str],
    network: DelfNetwork,
    stage: PcaStage,
    *,
    device: torch.device,
    dtype: torch.dtype,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Projection:
    """Fit PCA to the network's dimension on the best cells of each photograph.

    Photographs that cannot be read are passed over; who renders views reports them. A `DataError` if there are too
    few vectors.
    """
    chosen = spread(photos, stage.photographs)
    vectors = []
    with autocast(device, dtype), ThreadPoolExecutor(workers) as pool:
        jobs = map_ordered(lambda path: pool.submit(photo_levels, path, stage), chosen, 2 * workers)
        for done, (_, job) in enumerate(jobs, 1):
            with suppress(ImageError):
                vectors.append(best_vectors(job.result(), network, stage, device))
            if progress:
                progress(done, len(chosen))
    if not vectors:
        raise DataError(f"none of the {len(chosen)} photographs can be read")
    return fit_pca(torch.cat(vectors).numpy(), network.dim).to(device)


def best_vectors(
    levels: Sequence[Rgb], network: DelfNetwork, stage: PcaStage, device: torch.device | None = None
) -> Tensor:
    """Return up to `stage.cells` L2-normalised (N, C) vectors of highest score over a photograph's levels."""
    device = device or torch.device("cpu")
    channels = network.trunk.channels
    vectors, scores = [torch.empty((0, channels))], [torch.empty(0)]
    with torch.no_grad():
        for level in levels:
            features = network.trunk(network.normalise(torch.from_numpy(level[None]).to(device))).float()
            with torch.autocast(device.type, enabled=False):
                score = network.attention(features) if stage.select == "attention" else features.norm(dim=1)
            vectors.append(features[0].flatten(1).T.cpu())
            scores.append(score.flatten().cpu())
        best = torch.cat(scores).argsort(descending=True, stable=True)[: stage.cells]
        return F.normalize(torch.cat(vectors)[best], dim=1)


def photo_levels(path: str, stage: PcaStage) -> list[Rgb]:
    """Read a photograph and return it at the scales of a stage, (H, W, 3) uint8 each.

    An `ImageError` if it cannot be read.
    """
    photo = read_photograph(path)
    levels = plan_levels((photo.shape[1], photo.shape[0]), stage.scales, max_image_size=None, min_side=32)
    return [np.asarray(resize(photo, level.width, level.height, "area")) for level in levels]


def fit_pca(vectors: npt.NDArray[np.float32], dim: int) -> Projection:
    """Fit PCA on (N, C) L2-normalised vectors; signs are fixed so that the result is unique.

    A `DataError` if there are too few vectors for `dim` components.
    """
    from sklearn.decomposition import PCA

    if len(vectors) <= dim:
        raise DataError(f"PCA to {dim} dimensions needs more than {dim} feature vectors, got {len(vectors)}")
    pca = PCA(dim, svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
    projection = Projection(vectors.shape[1], dim)
    projection.mean.copy_(torch.from_numpy(pca.mean_))
    projection.components.copy_(torch.from_numpy(np.ascontiguousarray(pca.components_)))
    return projection


def spread(photos: Sequence[str], count: int | None) -> list[str]:
    """Return `count` of `photos`, evenly spread; all of them if there are not more."""
    if count is None or len(photos) <= count:
        return list(photos)
    return [photos[i] for i in np.linspace(0, len(photos) - 1, count).round().astype(int)]
