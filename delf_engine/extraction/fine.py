"""Fine features: RootSIFT keypoints of pixel accuracy, beside those of the attention network. Needs no torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.config import FineConfig
from delf_engine.extraction.content import content_box
from delf_engine.features import LocalFeatures
from delf_engine.images import MAX_PIXELS, Box, ImageSource, crop, load_reduced, source_name

#: Dimension of a RootSIFT descriptor.
FINE_DIM = 128


def fine_features(
    image: ImageSource,
    *,
    config: FineConfig | None = None,
    box: Box | None = None,
    max_pixels: int = MAX_PIXELS,
) -> LocalFeatures:
    """Extract RootSIFT features: OpenCV's SIFT, descriptors as square roots of their L1-normalised values.

    A uniform frame of the photograph is left out first, as for the coarse features. An `ImageError` if the image
    cannot be read, or the box holds none of it.

    Parameters
    ----------
    image : path, bytes, PIL image, or (H, W, 3) uint8 RGB array
    config : FineConfig or None
        None: those of the default profile.
    box : x0, y0, x1, y1 or None
        Region of interest in pixels, at the scale that the whole image would have had.
    max_pixels : int
        Larger images are refused before decoding, but for JPEGs, which are then decoded reduced.

    Returns
    -------
    LocalFeatures
        At most `config.max_features`, 128-D, the strongest first; keypoints in pixels of the image, sizes of the
        keypoints as scales. The same bits for the same pixels.

    References
    ----------
    Lowe, Distinctive Image Features from Scale-Invariant Keypoints, IJCV 2004; Arandjelović and Zisserman, Three
    Things Everyone Should Know to Improve Object Retrieval, CVPR 2012.
    """
    import cv2

    config = config or FineConfig()
    needed = None if box is not None else lambda whole: config.max_image_size  # a JPEG above the limit is reduced
    pixels, size = load_reduced(image, needed, always=False, max_pixels=max_pixels)
    x0, y0, x1, y1 = content_box(pixels)
    part, offset = pixels[y0:y1, x0:x1], (x0, y0)
    if box is not None:
        part, offset = crop(pixels, box, name=source_name(image))
    if not part.size:
        return LocalFeatures.empty(size, FINE_DIM)
    reduced = np.array([pixels.shape[1] / size[0], pixels.shape[0] / size[1]])
    width, height = (part.shape[1::-1] / reduced).round().astype(int).tolist()
    scale = config.scale(size if box is not None else (width, height))
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = _resized(np.asarray(cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY), np.uint8), target)
    detector = cv2.SIFT_create(  # type: ignore[attr-defined]
        nfeatures=config.max_features, contrastThreshold=config.contrast, enable_precise_upscale=True
    )
    found, descriptors = detector.detectAndCompute(grey, None)
    # It keeps more where the last ones are equally strong.
    order = np.argsort([-keypoint.response for keypoint in found], kind="stable")[: config.max_features]
    if not len(order):
        return LocalFeatures.empty(size, FINE_DIM)
    root = np.sqrt(descriptors[order] / np.maximum(descriptors[order].sum(1, keepdims=True), 1e-9))
    norms = np.linalg.norm(root, axis=1, keepdims=True)
    keep = order[norms[:, 0] > 0]
    points = np.array([found[i].pt for i in keep], np.float32).reshape(-1, 2)
    zoom = np.array(target, np.float32) / np.array([width, height], np.float32)
    corner = np.asarray(np.array(offset) / reduced, np.float32)
    keypoints = np.asarray((points + np.float32(0.5)) / zoom - np.float32(0.5) + corner, np.float32)
    return LocalFeatures(
        keypoints,
        np.array([found[i].size for i in keep], np.float32) / np.float32(scale),
        np.array([found[i].response for i in keep], np.float32),
        (root / np.maximum(norms, 1e-9))[norms[:, 0] > 0],
        size,
    )


def _resized(grey: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    import cv2

    if size == grey.shape[::-1]:
        return grey
    how = cv2.INTER_AREA if size[0] < grey.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)
