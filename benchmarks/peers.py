"""Other local features, as `LocalFeatures`."""

from __future__ import annotations

import cv2
import numpy as np

from delf_engine import LocalFeatures
from delf_engine.images import Box, ImageSource, crop, load_image

__all__ = ["root_sift"]


def root_sift(image: ImageSource, *, box: Box | None = None, max_features: int = 1000) -> LocalFeatures:
    """Return OpenCV's SIFT with the square root of L1-normalised descriptors (Arandjelovic and Zisserman 2012)."""
    pixels = load_image(image)
    size = (pixels.shape[1], pixels.shape[0])
    part, offset = crop(pixels, box) if box is not None else (pixels, (0, 0))
    detector = cv2.SIFT_create(nfeatures=max_features)  # type: ignore[attr-defined]
    found, descriptors = detector.detectAndCompute(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), None)
    if not found:
        return LocalFeatures.empty(size, 128)
    order = np.argsort([-k.response for k in found], kind="stable")[:max_features]
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return LocalFeatures(
        np.array([found[i].pt for i in order], np.float32) + np.array(offset, np.float32),
        np.array([found[i].size for i in order], np.float32),
        np.array([found[i].response for i in order], np.float32),
        root[order] / np.linalg.norm(root[order], axis=1, keepdims=True),
        size,
    )
