"""PCA of feature vectors over whole photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.errors import DataError, ImageError
from delf_engine.images import load_image
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import AttentionHead, Projection, normalise_images
from delf_engine.pyramid import plan_levels, resize
from delf_engine.training.config import ProjectionConfig

__all__ = ["best_vectors", "fit_pca", "fit_projection"]


def fit_projection(
    photos: Sequence[str],
    trunk: Trunk,
    head: AttentionHead | None,
    dim: int,
    config: ProjectionConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Projection:
    """Fit PCA on the best cells of each photograph by attention (`head` None: by L2 norm).

    Photographs that cannot be read are passed over; the views before reported them.
    """
    vectors = []
    for done, path in enumerate(photos, 1):
        try:
            photo = load_image(path)
        except ImageError:
            continue
        vectors.append(best_vectors(photo, trunk, head, config))
        if progress:
            progress(done, len(photos))
    return fit_pca(torch.cat(vectors).numpy(), dim)


def best_vectors(
    photo: npt.NDArray[np.uint8], trunk: Trunk, head: AttentionHead | None, config: ProjectionConfig
) -> Tensor:
    """Return up to `config.cells` L2-normalised (N, C) vectors of highest score over the scales."""
    levels = plan_levels((photo.shape[1], photo.shape[0]), config.scales, max_image_size=None, min_side=32)
    vectors, scores = [torch.empty((0, trunk.channels))], [torch.empty(0)]
    with torch.inference_mode():
        for level in levels:
            pixels = torch.from_numpy(resize(photo, level.width, level.height, "area"))
            features = trunk(normalise_images(pixels[None]))
            score = head(features) if head is not None else features.norm(dim=1)
            vectors.append(features[0].flatten(1).T)
            scores.append(score.flatten())
        best = torch.cat(scores).argsort(descending=True, stable=True)[: config.cells]
        return F.normalize(torch.cat(vectors)[best], dim=1).clone()


def fit_pca(vectors: npt.NDArray[np.float32], dim: int) -> Projection:
    """Fit PCA on (N, C) L2-normalised vectors; signs are fixed so that the result is unique.

    Raises
    ------
    DataError
        If there are too few vectors for `dim` components.
    """
    from sklearn.decomposition import PCA

    if len(vectors) <= dim:
        raise DataError(f"PCA to {dim} dimensions needs more than {dim} feature vectors, got {len(vectors)}")
    pca = PCA(dim, svd_solver="covariance_eigh").fit(vectors.astype(np.float64))
    projection = Projection(vectors.shape[1], dim)
    projection.mean.copy_(torch.from_numpy(pca.mean_))
    projection.components.copy_(torch.from_numpy(np.ascontiguousarray(pca.components_)))
    return projection
