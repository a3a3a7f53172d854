"""Verify two photographs by features of your own: here OpenCV's SIFT, turned into RootSIFT.

    python examples/own_features.py a.jpg b.jpg

Anything that gives keypoints and descriptors will do. Descriptors have unit length; keypoints are x, y in pixels,
the centre of the top left pixel being (0, 0).
"""

import sys

import cv2
import numpy as np

import delf_engine as de
from delf_engine.images import load_image

if len(sys.argv) != 3:
    sys.exit(__doc__)


def root_sift(path: str, most: int = 2000) -> de.LocalFeatures:
    """Return the RootSIFT features of a photograph, best first."""
    image = load_image(path)  # (H, W, 3) uint8 RGB, upright
    found, sift = cv2.SIFT.create(most).detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if not found:
        sys.exit(f"{path}: no keypoints")
    best = np.argsort([-point.response for point in found], kind="stable")[:most]
    roots = np.sqrt(sift[best] / sift[best].sum(axis=1, keepdims=True))
    return de.LocalFeatures(
        keypoints=np.array([found[i].pt for i in best]),
        scales=np.array([found[i].size for i in best]),
        scores=np.array([found[i].response for i in best]),
        descriptors=roots / np.linalg.norm(roots, axis=1, keepdims=True),
        image_size=(image.shape[1], image.shape[0]),
    )


# The default limits suit attention features; corners are exact, so their residual is smaller.
options = {"model": "homography", "estimator": "ransac", "residual_px": 4.0, "max_distance": 0.7}
config = de.load_profile("default").verification.model_copy(update=options)
result = de.verify_features(root_sift(sys.argv[1]), root_sift(sys.argv[2]), config=config)
print(f"{result.inliers} of {result.putative} matches agree on one homography")
print("a probability needs a calibration of these features:", result.probability)
