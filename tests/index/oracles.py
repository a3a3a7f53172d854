"""Plain NumPy versions of what indexes do: one descriptor, word or Gaussian at a time."""

from __future__ import annotations

import numpy as np

from delf_engine.config import AsmkConfig, BowConfig
from delf_engine.features import LocalFeatures
from delf_engine.grid import inside_regions
from delf_engine.index import Mixture

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


def regional_sums(features: LocalFeatures, centroids: np.ndarray, k: int, *, scaled: bool) -> Bags:
    """The sums of an image and of each region of its grid, added up; `scaled`: each at unit length first."""
    total = {word: 0 * residual for word, residual in sums(features, centroids, k).items()}
    for inside in [np.ones(len(features), bool), *inside_regions(features)]:
        part = sums(features, centroids, k, np.flatnonzero(inside))
        length = np.sqrt(sum((residual**2).sum() for residual in part.values()))
        for word, residual in part.items():
            total[word] = total[word] + (residual / length if scaled and length > 0 else residual)
    return total


def bag(features: LocalFeatures, centroids: np.ndarray, k: int) -> Bags:
    """The signs of the summed residuals of each visual word."""
    return {word: total > 0 for word, total in sums(features, centroids, k).items()}


def asmk_score(query: Bags, image: Bags, collection: list[Bags], dim: int, config: AsmkConfig) -> float:
    """The similarity of two images as `delf_engine.index.asmk` defines it."""
    total = 0.0
    divisor = dim if config.divisor == "bits" else 32 * int(np.ceil(dim / 32))
    for word in sorted(query.keys() & image.keys()):
        s = 1 - 2 * int((query[word] != image[word]).sum()) / divisor
        if s >= config.threshold:
            weight = np.log(len(collection) / sum(word in b for b in collection)) ** 2 if config.idf else 1.0
            total += weight * np.sign(s) * abs(s) ** config.alpha
    return total / (np.sqrt(len(query)) * np.sqrt(max(len(image), 1)))


Found = list[tuple[float, int, int]]  # squared distance, row and image of each neighbour, nearest first


def brute_force(x: np.ndarray, rows: np.ndarray, images: np.ndarray, neighbours: int) -> Found:
    """The nearest rows of one query descriptor, by (distance, row)."""
    every = [
        (((x - y) ** 2).sum(), row, int(image)) for row, (y, image) in enumerate(zip(rows, images, strict=True))
    ]
    return sorted(every)[:neighbours]


def voted(found: list[Found], count: int) -> np.ndarray:
    """The votes of `delf_engine.index.kdtree`, one query descriptor at a time."""
    pairs: dict[int, tuple[float, int, float]] = {}  # row: distance, image, vote of its nearest query descriptor
    for neighbours in found:
        background = 0.99 * max(0.0, 1 - neighbours[-1][0] / 2) if neighbours else 0.0
        nearest_of_image: dict[int, tuple[float, int]] = {}
        for squared, row, image in neighbours:
            nearest_of_image.setdefault(image, (squared, row))
        for image, (squared, row) in nearest_of_image.items():
            if row not in pairs or squared < pairs[row][0]:
                pairs[row] = (squared, image, max(0.0, 1 - squared / 2) - background)
    scores = np.zeros(count)
    for _, image, vote in pairs.values():
        scores[image] += vote
    return scores


def stacked(images: list[LocalFeatures]) -> tuple[np.ndarray, np.ndarray]:
    """All descriptors in float64, and the image of each."""
    rows = np.concatenate([image.descriptors for image in images]).astype(np.float64)
    return rows, np.repeat(np.arange(len(images)), [len(image) for image in images])


def kdtree_score(query: LocalFeatures, images: list[LocalFeatures], neighbours: int) -> np.ndarray:
    """The votes of `delf_engine.index.kdtree` with exact neighbours."""
    rows, owner = stacked(images)
    found = [brute_force(x, rows, owner, neighbours) for x in query.descriptors.astype(np.float64)]
    return voted(found, len(images))


def ivf_distances(
    query: LocalFeatures, images: list[LocalFeatures], centroids: np.ndarray, probes: int
) -> np.ndarray:
    """Squared distances of query descriptors to those kept in 8 bits, (Q, R); inf where a cell is not visited."""
    rows, _ = stacked(images)
    cells = nearest(rows.astype(np.float32), centroids, 1)[:, 0]
    kept = np.clip(np.rint(rows.astype(np.float32) * 127), -127, 127) / 127
    squared = ((query.descriptors[:, None].astype(np.float64) - kept[None]) ** 2).sum(-1)
    visited = nearest(query.descriptors, centroids, probes)
    return np.where((visited[:, :, None] == cells[None, None, :]).any(1), squared, np.inf)


def word_counts(features: LocalFeatures, centroids: np.ndarray, k: int) -> np.ndarray:
    """How often each word occurs, (W,)."""
    counts = np.zeros(len(centroids))
    for words in nearest(features.descriptors, centroids, min(k, len(centroids))):
        for word in words:
            counts[word] += 1
    return counts


def bow_scores(
    query: LocalFeatures, images: list[LocalFeatures], centroids: np.ndarray, config: BowConfig
) -> np.ndarray:
    """The cosines of tf-idf vectors."""
    counts = [word_counts(image, centroids, 1) for image in images]
    idf = np.ones(len(centroids))
    if config.idf:
        for word in range(len(centroids)):
            having = sum(count[word] > 0 for count in counts)
            idf[word] = np.log(len(images) / max(1, having))
    asked = word_counts(query, centroids, config.query_assignments) * idf
    return np.array([cosine(asked, count * idf) for count in counts])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def vlad(sums: Bags, words: int, dim: int, *, intra: bool, power: float) -> np.ndarray:
    """The vector of an image, (W D,), from the summed residuals of its words."""
    blocks = []
    for word in range(words):
        block = np.array(sums.get(word, np.zeros(dim)), np.float64)
        length = np.linalg.norm(block)
        blocks.append(block / length if intra and length > 0 else block)
    return unit(powered(np.concatenate(blocks), power))


def powered(vector: np.ndarray, power: float) -> np.ndarray:
    return np.array([np.sign(x) * abs(x) ** power for x in vector])


def unit(vector: np.ndarray) -> np.ndarray:
    largest = np.abs(vector).max(initial=0.0)
    return vector if largest == 0 else vector / largest / np.linalg.norm(vector / largest)


def fisher(features: LocalFeatures, mixture: Mixture, power: float) -> np.ndarray:
    """The vector of an image, (2 K D,): gradients by the means, then by the variances."""
    weights = mixture.weights.astype(np.float64) / mixture.weights.astype(np.float64).sum()
    means, variances = mixture.means.astype(np.float64), mixture.variances.astype(np.float64)
    of_means, of_variances = np.zeros(means.shape), np.zeros(means.shape)
    for x in features.descriptors.astype(np.float64):
        logs = np.array(
            [
                np.log(w) - 0.5 * (np.log(v).sum() + ((x - m) ** 2 / v).sum())
                for w, m, v in zip(weights, means, variances, strict=True)
            ]
        )
        posterior = np.exp(logs - logs.max())
        posterior /= posterior.sum()
        for k in range(len(weights)):
            u = (x - means[k]) / np.sqrt(variances[k])
            of_means[k] += posterior[k] * u / np.sqrt(weights[k])
            of_variances[k] += posterior[k] * (u**2 - 1) / np.sqrt(2 * weights[k])
    return unit(powered(np.concatenate([of_means.ravel(), of_variances.ravel()]), power))
