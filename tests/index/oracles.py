"""Plain NumPy versions of what the index kernels do: dictionaries of words, one descriptor at a time."""

from __future__ import annotations

import numpy as np

from delf_engine.config import AsmkConfig
from delf_engine.features import LocalFeatures
from delf_engine.regions import Regions

Bags = dict[int, np.ndarray]


def nearest(descriptors: np.ndarray, centroids: np.ndarray, k: int) -> np.ndarray:
    """(N, k) nearest words; ties go to the lowest."""
    out = []
    for x in descriptors.astype(np.float64):
        squared = [sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centroids.astype(np.float64)]
        out.append(np.argsort(squared, kind="stable")[:k])
    return np.array(out, np.int32).reshape(len(descriptors), k)


def sums(features: LocalFeatures, centroids: np.ndarray, k: int, members: np.ndarray | None = None) -> Bags:
    """The summed residuals of each visual word; of some descriptors only, if given."""
    out: dict[int, np.ndarray] = {}
    assigned = nearest(features.descriptors, centroids, min(k, len(centroids)))
    for row in range(len(features)) if members is None else members:
        x = features.descriptors[row].astype(np.float64)
        for word in assigned[row]:
            out[int(word)] = out.get(int(word), 0) + (x - centroids[word].astype(np.float64))
    return out


def regional_sums(
    features: LocalFeatures, centroids: np.ndarray, k: int, regions: Regions | None, norm: str | None
) -> Bags:
    """The sums of an image and of each region, added up word by word and divided by their number."""
    places = [None] if regions is None else [None, *(regions.members(r) for r in range(len(regions)))]
    total = {word: 0 * residual for word, residual in sums(features, centroids, k).items()}
    for members in places:
        part = sums(features, centroids, k, members)
        length = np.sqrt(sum((residual**2).sum() for residual in part.values()))
        for word, residual in part.items():
            scale = (1 / length if length > 0 else 0.0) if norm == "l2" else 1.0
            total[word] = total[word] + scale * residual
    return {word: residual / len(places) for word, residual in total.items()}


def bag(features: LocalFeatures, centroids: np.ndarray, k: int) -> Bags:
    """The signs of the summed residuals of each visual word."""
    return {word: total > 0 for word, total in sums(features, centroids, k).items()}


def float_bag(features: LocalFeatures, centroids: np.ndarray, k: int, dtype: type) -> Bags:
    """The summed residuals of each visual word at unit length, rounded to `dtype`."""
    out = {}
    for word, total in sums(features, centroids, k).items():
        norm = np.sqrt((total**2).sum())
        out[word] = (total / norm if norm > 0 else total).astype(np.float32).astype(dtype).astype(np.float64)
    return out


def asmk_score(query: Bags, image: Bags, collection: list[Bags], dim: int, config: AsmkConfig) -> float:
    """The similarity of two images as `delf_engine.index.asmk` defines it."""
    total = 0.0
    divisor = dim if config.divisor == "bits" else 32 * int(np.ceil(dim / 32))
    for word in sorted(query.keys() & image.keys()):
        if config.kernel == "binary":
            s = 1 - 2 * int((query[word] != image[word]).sum()) / divisor
        else:
            s = sum(float(a) * float(b) for a, b in zip(query[word], image[word], strict=True))
        if s > config.threshold or (s == config.threshold and not config.strict_threshold):
            weight = np.log(len(collection) / sum(word in b for b in collection)) ** 2 if config.idf else 1.0
            total += weight * np.sign(s) * abs(s) ** config.alpha
    return total / (np.sqrt(len(query)) * np.sqrt(max(len(image), 1)))


def kdtree_score(query: LocalFeatures, images: list[LocalFeatures], neighbours: int) -> np.ndarray:
    """The votes of `delf_engine.index.kdtree` with exact neighbours."""
    rows = [(i, x) for i, image in enumerate(images) for x in image.descriptors.astype(np.float64)]
    pairs: dict[int, tuple[float, int, float]] = {}  # row: distance, image, vote of its nearest query descriptor
    for x in query.descriptors.astype(np.float64):
        squared = np.array([((x - y) ** 2).sum() for _, y in rows])
        nearest_of_image: dict[int, int] = {}
        found = np.argsort(squared, kind="stable")[:neighbours]
        background = 0.99 * max(0.0, 1 - squared[found[-1]] / 2) if len(found) else 0.0
        for row in found:
            nearest_of_image.setdefault(rows[row][0], int(row))
        for image, row in nearest_of_image.items():
            if row not in pairs or squared[row] < pairs[row][0]:
                pairs[row] = (squared[row], image, max(0.0, 1 - squared[row] / 2) - background)
    scores = np.zeros(len(images))
    for _, image, vote in pairs.values():
        scores[image] += vote
    return scores
