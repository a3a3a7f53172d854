"""A published network taken apart, in the layout of this package: what every reader of foreign models gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import CheckpointError

__all__ = ["HALF_RANGE", "IMAGENET", "PublishedNetwork", "Reduction", "fold", "from_affine"]

Floats = npt.NDArray[np.float32]
Rgb = tuple[float, float, float]

#: Mean and standard deviation of RGB in [0, 1].
IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: (pixel - 128) / 128, as DELF has it.
HALF_RANGE: tuple[Rgb, Rgb] = ((128 / 255,) * 3, (128 / 255,) * 3)


@dataclass(frozen=True)
class Reduction:
    """Descriptors from feature vectors: components @ (L2(x) - mean), then L2; see `Projection`."""

    mean: Floats
    components: Floats
    unit_input: bool = True


@dataclass(frozen=True)
class PublishedNetwork:
    """A published model, taken apart.

    Attributes
    ----------
    architecture : str
        A name of `delf_engine.model.backbones.ARCHITECTURES`.
    trunk : mapping
        torchvision's names, with batch norm or folded.
    attention : mapping or None
        Of an `AttentionHead`, not weighted by the norm; None: the L2 norm is the score.
    reduction : Reduction or None
        None: the model has none of its own.
    smoothing : int
        Side of the window of averaging before reduction, in cells; 1: none.
    normalisation : (mean, std)
        Of RGB in [0, 1].
    profile : str
        The profile that comes nearest to how it was published.
    about : dict
        What is worth keeping of its origin.
    """

    architecture: str
    trunk: Mapping[str, npt.NDArray[Any]]
    attention: Mapping[str, Floats] | None
    reduction: Reduction | None
    smoothing: int = 1
    normalisation: tuple[Rgb, Rgb] = IMAGENET
    profile: str = "default"
    about: Mapping[str, str] = field(default_factory=dict)


def fold(
    kernel: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    norm: Mapping[str, npt.NDArray[Any]] | None,
    epsilon: float,
) -> tuple[Floats, Floats]:
    """Fold TensorFlow's batch norm into the convolution before it.

    Parameters
    ----------
    kernel : (H, W, I, O) array
    bias : (O,) array or None
    norm : mapping or None
        ``beta``, ``moving_mean``, ``moving_variance``, each (O,), and ``gamma`` unless it is 1.
    epsilon : float
        Added to the variance.

    Returns
    -------
    weight : (O, I, H, W) float32
    bias : (O,) float32
    """
    weight = kernel.astype(np.float64).transpose(3, 2, 0, 1)
    offset = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    if norm is not None:
        scale = norm.get("gamma", np.ones(1)).astype(np.float64) / np.sqrt(
            norm["moving_variance"].astype(np.float64) + epsilon
        )
        weight = weight * scale.reshape(-1, 1, 1, 1)
        offset = (offset - norm["moving_mean"]) * scale + norm["beta"]
    return np.ascontiguousarray(weight, np.float32), offset.astype(np.float32)


def from_affine(weight: npt.NDArray[Any], bias: npt.NDArray[Any], where: str) -> Reduction:
    """Write ``weight @ x + bias`` as ``weight @ (x - mean)``.

    Parameters
    ----------
    weight : (D, C) array
    bias : (D,) array
    where : str
        Names the model in errors.

    Raises
    ------
    CheckpointError
        If there is no such mean (the rows of `weight` depend on each other), or a shape is wrong.
    """
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.shape[0] > weight.shape[1]:
        raise CheckpointError(
            f"{where}: its reduction has shapes {weight.shape} and {bias.shape}; "
            "(D, C) and (D,) with D <= C are needed"
        )
    matrix, offset = weight.astype(np.float64), bias.astype(np.float64)
    if not (np.isfinite(matrix).all() and np.isfinite(offset).all()):
        raise CheckpointError(f"{where}: its reduction is not finite")
    mean = np.linalg.lstsq(matrix, -offset, rcond=None)[0]
    if np.abs(matrix @ mean + offset).max(initial=0) > 1e-5 * (1 + np.abs(offset).max(initial=0)):
        raise CheckpointError(
            f"{where}: the bias of its reduction cannot be written as a mean; it cannot be imported"
        )
    return Reduction(mean.astype(np.float32), np.ascontiguousarray(weight, np.float32), unit_input=False)
