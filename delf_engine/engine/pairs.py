"""Do two photographs show the same place?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from delf_engine.config import load_profile
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.verification import Verification, verify_features

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

__all__ = ["verify"]


def verify(
    a: ImageSource | LocalFeatures,
    b: ImageSource | LocalFeatures,
    *,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | None = None,
    box_a: Box | None = None,
    box_b: Box | None = None,
    seed: int = 0,
    extractor: Extractor | None = None,
) -> Verification:
    """Verify whether two photographs show the same place.

    Parameters
    ----------
    a, b : image or LocalFeatures
        Path, bytes, PIL image, (H, W, 3) uint8 RGB array, or features made before.
    model : str or path
        Checkpoint, by name or path.
    profile : str, path or None
        Options by the name of a profile or the path of its file; None: the checkpoint's own.
    box_a, box_b : x0, y0, x1, y1 or None
        Regions of interest in pixels, for images.
    seed : int
        Of RANSAC.
    extractor : Extractor or None
        Used instead of loading `model`: give one when verifying many pairs.

    Returns
    -------
    Verification

    Raises
    ------
    ImageError
        If an image cannot be read.
    CheckpointError, ConfigError
        If there is no such model or profile.
    """
    name = profile
    features = []
    for image, box in ((a, box_a), (b, box_b)):
        if isinstance(image, LocalFeatures):
            features.append(image)
            continue
        if extractor is None:
            from delf_engine.extraction import Extractor

            extractor = Extractor.from_pretrained(model, profile=profile)
        if name is None and extractor.info is not None:
            name = extractor.info.profile
        features.append(extractor(image, box=box))
    return verify_features(*features, config=load_profile(name or "default").verification, seed=seed)
