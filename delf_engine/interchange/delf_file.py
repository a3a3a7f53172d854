"""``.delf`` files: the features of one image as the published DELF code writes them (its feature_io.py).

A file is one message ``DelfFeatures``. Every field is set there and so written even where it is 0. An image
without features is a file of no bytes.

``scale`` is 1 / scale of the pyramid level, which is `LocalFeatures.scales`, ``strength`` the attention score;
orientations are written as 0 and not read. Locations have the same origin as ours.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.datum import array_of
from delf_engine.interchange.files import write_bytes
from delf_engine.interchange.messages import DelfFeatures, parse_message
from delf_engine.interchange.records import local_features
from delf_engine.support.files import system_errors

__all__ = ["parse_delf", "read_delf", "serialise_delf", "write_delf"]


def read_delf(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    normalise: bool = False,
    dim: int = 40,
) -> LocalFeatures:
    """Read a ``.delf`` file.

    Parameters
    ----------
    path : path
    image_size : (width, height) or None
        Of the image in pixels; the file does not state it. None: the smallest size that holds all keypoints.
    normalise : bool
        Scale descriptors to unit length. DELF's are of unit length already, and others are refused.
    dim : int
        Descriptor dimension of the result where the file holds no features; otherwise the file states it.

    Returns
    -------
    LocalFeatures
        Sorted by descending score; equal scores keep their order.

    Raises
    ------
    FormatError
        If the file cannot be read, is damaged, or does not hold valid features.
    """
    with system_errors(f"{path}: cannot be read"):
        data = Path(path).read_bytes()
    return parse_delf(data, image_size=image_size, normalise=normalise, dim=dim, where=str(path))


def write_delf(path: str | os.PathLike[str], features: LocalFeatures) -> None:
    """Write a ``.delf`` file, replacing one that is there; its folder is made if need be.

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    write_bytes(Path(path), serialise_delf(features))


def parse_delf(
    data: bytes,
    *,
    image_size: tuple[int, int] | None = None,
    normalise: bool = False,
    dim: int = 40,
    where: str = "features",
) -> LocalFeatures:
    """Parse the bytes of a ``.delf`` file, as `read_delf`; `where` names them in errors."""
    if not data:
        return LocalFeatures.empty(image_size or (1, 1), dim)
    found = parse_message(DelfFeatures, data, where).feature
    if not found:
        raise FormatError(f"{where}: holds no feature; it is no file of DELF features, or damaged: fetch it again")
    descriptors = [array_of(one.descriptor, f"{where}: feature {i}") for i, one in enumerate(found)]
    shapes = {descriptor.shape for descriptor in descriptors}
    if len(shapes) > 1 or len(descriptors[0].shape) != 1:
        raise FormatError(
            f"{where}: descriptors of the shapes {sorted(shapes)}, wanted one dimension, and the same for all: "
            "damaged or no file of DELF features, fetch or write it again"
        )
    numbers = np.array([(one.x, one.y, one.scale, one.strength) for one in found], np.float32)
    return local_features(
        where,
        keypoints=numbers[:, :2],
        scales=numbers[:, 2],
        scores=numbers[:, 3],
        descriptors=np.stack(descriptors),
        image_size=image_size,
        normalise=normalise,
    )


def serialise_delf(features: LocalFeatures) -> bytes:
    """Return features as the bytes of a ``.delf`` file, the very ones that the published code writes."""
    message = DelfFeatures()
    numbers = np.column_stack([features.keypoints, features.scales, features.scores]).tolist()
    for (x, y, scale, score), descriptor in zip(numbers, features.descriptors.tolist(), strict=True):
        one = message.feature.add(x=x, y=y, scale=scale, orientation=0.0, strength=score)
        one.descriptor.shape.dim.append(features.dim)
        one.descriptor.float_list.value.extend(descriptor)
    data: bytes = message.SerializeToString()
    return data
