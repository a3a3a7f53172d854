"""The whole method in one file: from photographs to a ranking, without a kernel of the package.

What `delf_engine` does with profile ``default`` and checkpoint ``delf-r18``, written to be read: an image pyramid,
a ResNet-18 cut at conv4, attention, PCA to 40 dimensions, ASMK candidates, mutual matches, an affine map that
every match may propose, and a ranking by the number of inliers. `tests/test_the_whole_thing.py` holds the package
to it.

    python examples/the_whole_thing.py query.jpg photo1.jpg photo2.jpg ...

References: Noh et al., Large-Scale Image Retrieval with Attentive Deep Local Features, ICCV 2017 (DELF).
Tolias, Avrithis, Jegou, Image search with selective match kernels, IJCV 2016 (ASMK).
Philbin et al., Object retrieval with large vocabularies, CVPR 2007 (one match proposes a map);
Chum, Matas, Kittler, Locally optimized RANSAC, 2003 (and it is refined on its inliers).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import load_file

# Extraction: configs/default.toml says the same.
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE, MIN_SIDE = 256, 1024, 10
MIN_CONTRAST = 3.0  # flat patches look alike everywhere; frames, too, which this file does not trim
SCALES = (0.25, 0.35355339, 0.5, 0.70710678)
FILL_SCALES = (1.0, 1.41421356)  # for small photographs: while there are fewer cells than features wanted
MAX_FEATURES, STRIDE = 1000, 16
MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
# ASMK.
QUERY_WORDS, ALPHA = 5, 3.0
# Verification, in pixels of the photograph shrunk to 1024.
MAX_DISTANCE, RESIDUAL, REFERENCE_SIZE, MIN_INLIERS = 0.8, 24.0, 1024, 30
SLACK, GROWTH, TRIES = 2.0, 0.1, 8  # of a proposed map: how far a match may be off, and how many are refined
SHRINKING = (2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0, 1.0)  # of the threshold, while a map is refined
MAX_ZOOM, MAX_STRETCH = 10.0, 8.0  # beyond, no camera did it


class Features(NamedTuple):
    """Local features of one photograph, by descending score.

    keypoints (N, 2): x, y in pixels of the photograph, (0, 0) the centre of the first pixel; scales (N,): size of
    the feature; scores (N,): attention; descriptors (N, 40), unit length; image_size: width, height.
    """

    keypoints: np.ndarray
    scales: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray
    image_size: tuple[int, int]


# ------------------------------------------------------------------------------------------------ 1. the pyramid


def read(path: str | Path) -> np.ndarray:
    """Return a photograph upright, (H, W, 3) uint8 RGB."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def pyramid(image: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Return the levels as (scale relative to the photograph, pixels)."""
    height, width = image.shape[:2]
    base = max(min(1.0, MAX_IMAGE_SIZE / max(width, height)), MIN_IMAGE_SIZE / max(width, height))
    levels: list[tuple[float, np.ndarray]] = []
    cells = 0
    for scale in (*SCALES, *FILL_SCALES):
        size = (max(1, round(width * base * scale)), max(1, round(height * base * scale)))
        if min(size) < MIN_SIDE or (scale in FILL_SCALES and cells >= MAX_FEATURES):
            continue
        shrinks = size[0] <= width and size[1] <= height
        filtering = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        same = size == (width, height)
        levels.append((base * scale, image if same else cv2.resize(image, size, interpolation=filtering)))
        cells += -(-size[0] // STRIDE) * -(-size[1] // STRIDE)
    return levels


# ------------------------------------------------------------------------- 2. the network: trunk, attention, PCA


class Network:
    """ResNet-18 up to conv4 with batch norm folded into its convolutions, an attention head, a projection."""

    def __init__(self, checkpoint: str | Path) -> None:
        self.weights = {name: value.float() for name, value in load_file(str(checkpoint)).items()}

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        """Convolve with padding of half the kernel."""
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(x, weight, self.weights[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def block(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        """Apply one basic block of a ResNet."""
        inner = F.relu(self.conv(x, f"{name}.conv1", stride))
        shortcut = self.conv(x, f"{name}.downsample.0", stride) if stride > 1 else x
        return F.relu(self.conv(inner, f"{name}.conv2") + shortcut)

    def maps(self, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return conv4, (h, w, 256), and the attention of its cells, (h, w): softplus(head) times L2 norm."""
        x = (torch.from_numpy(np.array(pixels, np.float32)) - 255 * MEAN) / (255 * STD)
        x = F.relu(self.conv(x.permute(2, 0, 1)[None], "trunk.conv1", stride=2))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (1, 2, 3):
            x = self.block(x, f"trunk.layer{layer}.0", stride=1 if layer == 1 else 2)
            x = self.block(x, f"trunk.layer{layer}.1", stride=1)
        logits = self.conv(F.relu(self.conv(x, "attention.conv1")), "attention.conv2")
        return x[0].permute(1, 2, 0), (F.softplus(logits[:, 0]) * x.norm(dim=1))[0]

    def project(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return 40-D unit descriptors of conv4 vectors, (N, 256): L2, centre, PCA, L2."""
        centred = F.normalize(vectors, dim=1) - self.weights["projection.mean"]
        return F.normalize(centred @ self.weights["projection.components"].T, dim=1)


def textured(pixels: np.ndarray) -> np.ndarray:
    """Return at which cells of a level brightness varies around them, (h, w) bool."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)
    window = (3 * STRIDE, 3 * STRIDE)
    mean, square = (cv2.blur(x, window, borderType=cv2.BORDER_REFLECT) for x in (grey, grey**2))
    return np.asarray(square - mean**2 >= MIN_CONTRAST**2)[::STRIDE, ::STRIDE]


@torch.inference_mode()
def extract(image: np.ndarray, network: Network) -> Features:
    """Return the cells of highest attention over all levels together, described."""
    height, width = image.shape[:2]
    keypoints, scales, scores, vectors = [], [], [], []
    for scale, pixels in pyramid(image):
        cells, attention = network.maps(pixels)
        rows, columns = np.divmod(np.arange(attention.numel()), attention.shape[1])
        # Cell j of a map of stride s is centred on pixel s j of its level, see delf_engine/pyramid.py.
        ratio = np.array([width / pixels.shape[1], height / pixels.shape[0]])
        keypoints.append((np.stack([columns, rows], 1) * STRIDE + 0.5) * ratio - 0.5)
        scales.append(np.full(attention.numel(), 1 / scale))
        scores.append(np.where(textured(pixels), attention.numpy(), -1.0).ravel())
        vectors.append(cells.reshape(-1, cells.shape[2]))
    best = np.argsort(-np.concatenate(scores), kind="stable")[:MAX_FEATURES]
    best = best[np.concatenate(scores)[best] >= 0]
    descriptors = network.project(torch.cat(vectors)[torch.from_numpy(best)]).numpy()
    at, size, score = (np.concatenate(parts)[best] for parts in (keypoints, scales, scores))
    return Features(at, size, score, descriptors, (width, height))


# ------------------------------------------------------------------------------------------ 3. candidates by ASMK


def aggregate(features: Features, words: np.ndarray, assignments: int) -> dict[int, np.ndarray]:
    """Return the binary code of each visual word of an image: the signs of its summed residuals, (40,) bool."""
    squared = ((features.descriptors[:, None].astype(np.float64) ** 2).sum(2)) + (words**2).sum(1)
    squared = squared - 2 * features.descriptors.astype(np.float64) @ words.T
    residuals: dict[int, np.ndarray] = {}
    for row, nearest in enumerate(np.argsort(squared, axis=1, kind="stable")[:, :assignments]):
        for word in nearest:
            residual = features.descriptors[row] - words[word]
            residuals[int(word)] = residuals.get(int(word), 0) + residual
    return {word: total > 0 for word, total in residuals.items()}


def asmk(query: dict[int, np.ndarray], image: dict[int, np.ndarray]) -> float:
    """Return the selective match kernel: how well the codes of shared words agree, to the power alpha."""
    total = 0.0
    for word in query.keys() & image.keys():
        agreement = 1 - 2 * np.mean(query[word] != image[word])
        total += max(0.0, agreement) ** ALPHA
    return float(total / np.sqrt(max(len(query), 1) * max(len(image), 1)))


# -------------------------------------------------------------------------------------------- 4. mutual matches


def match(a: Features, b: Features) -> np.ndarray:
    """Return the rows of mutual nearest neighbours that are near enough, (M, 2)."""
    if not len(a.descriptors) or not len(b.descriptors):
        return np.empty((0, 2), int)
    similarity = a.descriptors.astype(np.float64) @ b.descriptors.astype(np.float64).T
    rows, nearest = np.arange(len(similarity)), similarity.argmax(axis=1)
    distance = np.sqrt(np.maximum(0, 2 - 2 * similarity[rows, nearest]))
    keep = (similarity.argmax(axis=0)[nearest] == rows) & (distance <= MAX_DISTANCE)
    return np.stack([rows[keep], nearest[keep]], axis=1)


# -------------------------------------------------------------------------------- 5. the map that matches agree on


def verify(a: Features, b: Features) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the matches that one affine map explains, (K, 2), and the map, (3, 3) in shrunk pixels."""
    pairs = match(a, b)
    shrunk = [min(1.0, REFERENCE_SIZE / max(side.image_size)) for side in (a, b)]
    points_a = (a.keypoints[pairs[:, 0]].astype(np.float64) + 0.5) * shrunk[0] - 0.5
    points_b = (b.keypoints[pairs[:, 1]].astype(np.float64) + 0.5) * shrunk[1] - 0.5
    zooms = b.scales[pairs[:, 1]].astype(np.float64) * shrunk[1] / (a.scales[pairs[:, 0]] * shrunk[0])
    best, best_score = None, 0.0
    for inliers in proposals(points_a, points_b, np.clip(zooms, 1 / MAX_ZOOM, MAX_ZOOM)):
        found, found_score = refine(points_a, points_b, inliers)
        if found_score > best_score:
            best, best_score = found, found_score
    if best is None:
        return np.empty((0, 2), int), None
    return pairs[residuals(best, points_a, points_b) <= RESIDUAL], best


def proposals(a: np.ndarray, b: np.ndarray, zooms: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the inliers of the most promising proposals: each match is one, an upright map with its own zoom.

    What a match may be off by grows with its distance from the proposing one. A proposal whose own match an
    earlier one explains, once refined, is left out.
    """
    from_a, from_b = a - a[:, None], b - b[:, None]  # [h, i]: from match h to match i
    errors = ((from_b - zooms[:, None, None] * from_a) ** 2).sum(2) / (zooms[:, None] ** 2 + 1)
    allowed = (SLACK * RESIDUAL) ** 2 + GROWTH**2 * ((from_a**2).sum(2) + (from_b**2).sum(2))
    losses = errors / allowed
    order = list(np.argsort(-np.maximum(0, 1 - losses).sum(axis=1), kind="stable"))
    for _ in range(TRIES):
        if not order:
            return
        inliers = losses[order.pop(0)] <= 1
        yield inliers
        model, _ = refine(a, b, inliers)
        if model is not None:
            explained = residuals(model, a, b) <= RESIDUAL
            order = [h for h in order if not explained[h]]


def refine(a: np.ndarray, b: np.ndarray, inliers: np.ndarray) -> tuple[np.ndarray | None, float]:
    """Fit again and again while the threshold shrinks; return the best map and its score, the MSAC gain."""
    best, best_score = None, 0.0
    for wider in SHRINKING:
        model = fit(a[inliers], b[inliers])
        if model is None or not possible(model):
            break
        errors = residuals(model, a, b)
        score = float(np.maximum(0, 1 - (errors / RESIDUAL) ** 2).sum())
        if score > best_score:
            best, best_score = model, score
        elif wider == 1:
            break
        inliers = errors <= RESIDUAL * wider
    return best, best_score


def fit(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Return the affine map of least squares, or where matches are few or in a line the similarity."""
    if len(a) < 2 or not np.ptp(a, axis=0).any():
        return None
    p, q = a - a.mean(axis=0), b - b.mean(axis=0)
    along, across = np.linalg.eigvalsh(p.T @ p)[::-1]
    if len(a) >= 6 and along * across > 1e-4 * (along + across) ** 2:
        linear = np.linalg.lstsq(p, q, rcond=None)[0].T
    else:  # one complex factor: z -> f z
        z, w = p @ [1, 1j], q @ [1, 1j]
        f = np.vdot(z, w) / np.vdot(z, z).real
        linear = np.array([[f.real, -f.imag], [f.imag, f.real]])
    model = np.eye(3)
    model[:2, :2], model[:2, 2] = linear, b.mean(axis=0) - linear @ a.mean(axis=0)
    return model


def possible(model: np.ndarray) -> bool:
    """Tell whether a camera could have done it: not mirrored, not zoomed or squeezed beyond measure."""
    large, small = np.linalg.svd(model[:2, :2])[1]
    upright = np.linalg.det(model[:2, :2]) > 0
    return bool(upright and 1 / MAX_ZOOM**2 < large * small < MAX_ZOOM**2 and large < MAX_STRETCH * small)


def residuals(model: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Sampson distances of matches: by how much (x_A, y_A, x_B, y_B) must be moved to fit the map."""
    errors = a @ model[:2, :2].T + model[:2, 2] - b
    inverse = np.linalg.inv(np.eye(2) + model[:2, :2] @ model[:2, :2].T)
    squared: np.ndarray = np.einsum("ni,ij,nj->n", errors, inverse, errors)
    return np.sqrt(squared)


# ----------------------------------------------------------------------------------------------- 6. the ranking


def search(query: Features, photos: dict[str, Features], words: np.ndarray) -> list[tuple[str, int, float]]:
    """Return (name, inliers, ASMK score), best first: by inliers, equal ones by their score."""
    asked = aggregate(query, words, QUERY_WORDS)
    scores = {name: asmk(asked, aggregate(photo, words, 1)) for name, photo in photos.items()}
    inliers = {name: len(verify(query, photo)[0]) for name, photo in photos.items()}
    ranked = sorted(photos, key=lambda name: (-inliers[name], -scores[name]))
    return [(name, inliers[name], scores[name]) for name in ranked]


def main(query: str, *paths: str) -> None:
    """Rank photographs by how well they show what the query shows."""
    checkpoints = Path(__file__).resolve().parents[1] / "delf_engine" / "checkpoints"
    network = Network(checkpoints / "delf-r18.safetensors")
    words = load_file(str(checkpoints / "delf-r18.codebook.safetensors"))["centroids"].double().numpy()
    photos = {path: extract(read(path), network) for path in paths}
    for name, inliers, score in search(extract(read(query), network), photos, words):
        answer = "the same place" if inliers >= MIN_INLIERS else "another place"
        print(f"{name}: {answer}, {inliers} inliers, ASMK {score:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
