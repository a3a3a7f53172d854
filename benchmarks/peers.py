"""Other local features, as `LocalFeatures`. A peer is a callable: an image in, its features out."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine import LocalFeatures
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.images import Box, ImageSource, crop, load_image

if TYPE_CHECKING:
    from kornia.feature import ALIKED

__all__ = ["Peer", "aliked", "file_hash", "root_sift"]

#: A table that kornia computes for itself when it builds the network; published weights do not hold it.
_COMPUTED = {"dkd.hw_grid"}


class Peer(Protocol):
    """What extracts local features: ours and the others alike."""

    def __call__(self, image: ImageSource, *, box: Box | None = None) -> LocalFeatures:
        """Return the features of an image, or of a box of it."""
        ...


def root_sift(
    image: ImageSource, *, box: Box | None = None, max_features: int = 1000, max_image_size: int | None = None
) -> LocalFeatures:
    """Return OpenCV's SIFT with the square root of L1-normalised descriptors (Arandjelovic and Zisserman 2012).

    Parameters
    ----------
    image : path, bytes, PIL image, or (H, W, 3) uint8 array
    box : x0, y0, x1, y1 or None
        Look at this part only; keypoints are still in pixels of the whole image.
    max_features : int
        The strongest by response.
    max_image_size : int or None
        Shrink an image whose longer side has more pixels.
    """
    pixels = load_image(image)
    size = (pixels.shape[1], pixels.shape[0])
    part, offset, shrink = _prepared(pixels, box, max_image_size)
    detector = cv2.SIFT_create(nfeatures=max_features)  # type: ignore[attr-defined]
    found, descriptors = detector.detectAndCompute(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), None)
    if not found:
        return LocalFeatures.empty(size, 128)
    order = np.argsort([-k.response for k in found], kind="stable")[:max_features]
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return LocalFeatures(
        _in_image(np.array([found[i].pt for i in order], np.float32), shrink, offset),
        np.array([found[i].size for i in order], np.float32) / np.float32(shrink),
        np.array([found[i].response for i in order], np.float32),
        root[order] / np.linalg.norm(root[order], axis=1, keepdims=True),
        size,
    )


def aliked(weights: Path, *, max_features: int = 1000, max_image_size: int | None = 1024) -> Peer:
    """Return an extractor of ALIKED-n16 (Zhao et al. 2023): 128-D descriptors, one scale, on the CPU.

    The strongest `max_features` maxima of its score map are kept, without its absolute threshold, so that it has
    as many features as the others.

    Parameters
    ----------
    weights : Path
        The official weights as safetensors, under kornia's names.
    max_features : int
    max_image_size : int or None
        Shrink an image whose longer side has more pixels.

    Raises
    ------
    ConfigError
        If kornia is not installed.
    CheckpointError
        If the weights are missing, damaged, or not those of ALIKED-n16.
    """
    return partial(_aliked, _aliked_network(weights, max_features), max_image_size=max_image_size)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; name its folder with --weights"
        ) from error


def _aliked_network(weights: Path, max_features: int) -> ALIKED:
    try:
        from kornia.feature import ALIKED
    except ImportError as error:
        raise ConfigError("ALIKED needs a recent kornia: pip install --upgrade 'delf-engine[aliked]'") from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{weights}: cannot be read as safetensors: {error}; name the folder of aliked-n16.safetensors "
            "with --weights"
        ) from error
    network = ALIKED("aliked-n16", max_num_keypoints=max_features, detection_threshold=0.0)
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{weights}: not the weights of ALIKED-n16: {error}") from error
    if set(missing) - _COMPUTED or unexpected:
        raise CheckpointError(
            f"{weights}: not the weights of ALIKED-n16: {len(set(missing) - _COMPUTED)} parameters missing, "
            f"{len(unexpected)} unknown"
        )
    return network.eval()


def _aliked(
    network: ALIKED, image: ImageSource, *, box: Box | None = None, max_image_size: int | None = None
) -> LocalFeatures:
    import torch

    pixels = load_image(image)
    size = (pixels.shape[1], pixels.shape[0])
    part, offset, shrink = _prepared(pixels, box, max_image_size)
    batch = torch.tensor(part).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found = network(batch)[0]
    scores = found.keypoint_scores.numpy()
    if not len(scores):
        return LocalFeatures.empty(size, 128)
    # Scores are read between pixels, so they are not quite in the order of the maxima.
    order = np.argsort(-scores, kind="stable")
    return LocalFeatures(
        _in_image(found.keypoints.numpy()[order], shrink, offset),
        np.full(len(order), 1 / shrink, np.float32),
        scores[order],
        found.descriptors.numpy()[order],
        size,
    )


def _prepared(
    pixels: npt.NDArray[np.uint8], box: Box | None, max_image_size: int | None
) -> tuple[npt.NDArray[np.uint8], tuple[int, int], float]:
    """Return the part to look at, shrunk with its image; its upper left corner; and by how much it was shrunk."""
    height, width = pixels.shape[:2]
    part, offset = crop(pixels, box) if box is not None else (pixels, (0, 0))
    shrink = min(1.0, max_image_size / max(width, height)) if max_image_size else 1.0
    if shrink < 1:
        target = (max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink)))
        part = np.asarray(cv2.resize(part, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return part, offset, shrink


def _in_image(points: npt.NDArray[np.float32], shrink: float, offset: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Carry points of the prepared part over to the image, pixel centres being whole numbers in both."""
    moved = (points + 0.5) / shrink - 0.5 if shrink < 1 else points
    return np.asarray(moved + np.array(offset), dtype=np.float32)
