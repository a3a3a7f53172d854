"""Global descriptors pooled from one feature map, one function a method, all of them a `Pooling`.

All take (B, C, h, w) features after a ReLU and (B, h, w) attention scores of the same cells, and give (B, K), not
normalised. Of a ViT, whose features may be negative, `gem` drops these, and `crow` and `pwa` give NaN. Parameters
that a method learns, or that were fitted, are tensors given by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from delf_engine.grid import rigid_grid

#: Maps features, scores and, by name, further parameters to (B, K).
Pooling: TypeAlias = Callable[..., Tensor]

_EPSILON = 1e-6


def max_pooled(features: Tensor, scores: Tensor) -> Tensor:
    """MAC: the maximum of each channel (Razavian et al., MTA 2016)."""
    return features.amax((2, 3))


def mean_pooled(features: Tensor, scores: Tensor) -> Tensor:
    """GAP: the mean of each channel."""
    return features.mean((2, 3))


def spoc(features: Tensor, scores: Tensor) -> Tensor:
    """SPoC with its centre prior: a Gaussian, sigma a third of the way to the border (Babenko, ICCV 2015)."""
    height, width = features.shape[2:]
    y, x = _from_centre(height, features), _from_centre(width, features)
    sigma = max(min(height, width) / 6, _EPSILON)
    prior = torch.exp(-(y[:, None].square() + x.square()) / (2 * sigma**2))
    return (features * prior).sum((2, 3))


def gem(features: Tensor, scores: Tensor, *, p: Tensor) -> Tensor:
    """Generalised mean: p = 1 is GAP, p to infinity is MAC (Radenović et al., TPAMI 2018).

    Parameters
    ----------
    features, scores : Tensor
    p : () or (C,) Tensor
        Exponent of all channels, or of each.
    """
    p = p.reshape(1, -1, 1, 1)
    return features.clamp(min=_EPSILON).pow(p).mean((2, 3)).pow(1 / p[..., 0, 0])


def attended(features: Tensor, scores: Tensor) -> Tensor:
    """Sum of the features, each times its attention score (Noh et al., ICCV 2017, first stage)."""
    return torch.einsum("bchw,bhw->bc", features, scores)


def rmac(features: Tensor, scores: Tensor) -> Tensor:
    """R-MAC: maxima of the regions of the rigid grid, normalised, summed (Tolias et al., ICLR 2016)."""
    return _region_maxima(features).sum(1)


def attended_rmac(features: Tensor, scores: Tensor) -> Tensor:
    """R-MAC whose regions count by their mean attention score."""
    weights = torch.stack([scores[:, y0:y1, x0:x1].mean((1, 2)) for x0, y0, x1, y1 in _boxes(scores)], 1)
    return torch.einsum("brc,br->bc", _region_maxima(features), weights)


def crow(features: Tensor, scores: Tensor) -> Tensor:
    """CroW: cells by their activation, channels by how rarely they are active (Kalantidis et al., ECCVW 2016)."""
    total = features.sum(1)
    spatial = (total / total.square().sum((1, 2), keepdim=True).sqrt().clamp(min=_EPSILON)).sqrt()
    active = (features > 0).to(features.dtype).mean((2, 3))
    rare = torch.log((len(active[0]) * _EPSILON + active.sum(1, keepdim=True)) / (_EPSILON + active))
    return torch.einsum("bchw,bhw->bc", features, spatial) * rare


def scda(features: Tensor, scores: Tensor) -> Tensor:
    """SCDA: mean and maximum over the largest connected part more active than the mean (Wei et al., TIP 2017).

    Returns
    -------
    (B, 2 C) Tensor
        Means, then maxima, both L2-normalised.
    """
    import numpy as np
    from scipy.ndimage import label

    total = features.sum(1)
    above = (total >= total.mean((1, 2), keepdim=True)).cpu().numpy()
    masks = []
    for one in above:  # 8-connected, as the published code counts
        parts, _ = label(one, np.ones((3, 3)))
        masks.append(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    mask = torch.from_numpy(np.stack(masks)).to(features.device)[:, None]
    means = (features * mask).sum((2, 3)) / mask.sum((2, 3))
    return torch.cat([F.normalize(means), F.normalize((features * mask).amax((2, 3)))], 1)


def pwa(features: Tensor, scores: Tensor, *, channels: Tensor) -> Tensor:
    """Part-based weights: each of some channels, normalised, weighs the cells once (Xu et al., AAAI 2018).

    Parameters
    ----------
    features, scores : Tensor
    channels : (N,) int64 Tensor
        The part detectors: in the paper those whose maxima vary most over images.

    Returns
    -------
    (B, N C) Tensor
    """
    parts = features[:, channels]
    norms = parts.square().sum((2, 3), keepdim=True).sqrt().clamp(min=_EPSILON)
    return torch.einsum("bchw,bnhw->bnc", features, (parts / norms).sqrt()).flatten(1)


def covariance(features: Tensor, scores: Tensor) -> Tensor:
    """Second order: the covariance of the cells, square root of its eigenvalues (Li et al., ICCV 2017, MPN-COV).

    Returns
    -------
    (B, C (C + 1) / 2) Tensor
        The upper triangle, off-diagonal entries times the root of 2: products are those of whole matrices.
    """
    cells = features.flatten(2).double()
    cells = cells - cells.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(cells @ cells.mT / cells.shape[2])
    root = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
    rows, columns = torch.triu_indices(*root.shape[1:]).unbind()
    twice = torch.where(rows == columns, 1.0, 2**0.5).to(root)
    return (root[:, rows, columns] * twice).to(features.dtype)


def netvlad(features: Tensor, scores: Tensor, *, centres: Tensor, sharpness: Tensor) -> Tensor:
    """NetVLAD: residuals to centres by soft assignment, normalised a centre (Arandjelović et al., CVPR 2016).

    Parameters
    ----------
    features, scores : Tensor
    centres : (N, C) Tensor
        Of L2-normalised cells.
    sharpness : () Tensor
        Of the assignment: a cell goes to centre k by softmax of ``-sharpness |x - c_k|^2``.

    Returns
    -------
    (B, N C) Tensor
    """
    cells = F.normalize(features.flatten(2), dim=1)
    shares = torch.softmax(sharpness * (2 * centres @ cells - centres.square().sum(1, keepdim=True)), 1)
    sums = shares @ cells.mT - shares.sum(2, keepdim=True) * centres
    return F.normalize(sums, dim=2).flatten(1)


def mop(features: Tensor, scores: Tensor, *, centres: Tensor) -> Tensor:
    """MOP: the mean, and VLADs of the means of windows of a half and a quarter of the map (Gong, ECCV 2014).

    Parameters
    ----------
    features, scores : Tensor
    centres : (N, C) Tensor
        Of L2-normalised means.

    Returns
    -------
    (B, C + 2 N C) Tensor
        Each of the three L2-normalised.
    """
    out = [F.normalize(mean_pooled(features, scores))]
    height, width = features.shape[2:]
    for part in (2, 4):
        side = (-(-height // part), -(-width // part))
        step = (max(1, side[0] // 2), max(1, side[1] // 2))
        means = F.normalize(F.avg_pool2d(features, side, step).flatten(2), dim=1)
        distances = centres.square().sum(1, keepdim=True) - 2 * centres @ means
        shares = F.one_hot(distances.argmin(1), len(centres)).mT.to(means)
        sums = shares @ means.mT - shares.sum(2, keepdim=True) * centres
        out.append(F.normalize((sums.sign() * sums.abs().sqrt()).flatten(1)))
    return torch.cat(out, 1)


#: Methods by name.
POOLINGS: dict[str, Pooling] = {
    "mac": max_pooled,
    "gap": mean_pooled,
    "spoc": spoc,
    "gem": gem,
    "attention": attended,
    "rmac": rmac,
    "attention_rmac": attended_rmac,
    "crow": crow,
    "scda": scda,
    "pwa": pwa,
    "covariance": covariance,
    "netvlad": netvlad,
    "mop": mop,
}


def _from_centre(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device, dtype=like.dtype) - (length - 1) / 2


def _boxes(maps: Tensor) -> list[list[int]]:
    """Return the regions of maps of one size: the whole map first, then the rigid grid."""
    height, width = maps.shape[-2:]
    boxes: list[list[int]] = [[0, 0, width, height], *rigid_grid((width, height)).tolist()]
    return boxes


def _region_maxima(features: Tensor) -> Tensor:
    """Return the L2-normalised maxima of each region, (B, R, C)."""
    cells = features.permute(0, 2, 3, 1)  # channels last, as they lie in memory: 40 times as fast on a CPU
    boxes = _boxes(features)
    rows = {(y0, y1): cells[:, y0:y1].amax(1) for _, y0, _, y1 in boxes}  # what several regions share
    maxima = [rows[y0, y1][:, x0:x1].amax(1) for x0, y0, x1, y1 in boxes]
    return F.normalize(torch.stack(maxima, 1), dim=2)
