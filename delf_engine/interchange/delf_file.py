"""``.delf`` files: the features of one image as the published DELF code writes them (its feature_io.py).

A file is one message ``DelfFeatures``. Every field is set there and so written even where it is 0. An image
without features is a file of no bytes.

``scale`` is 1 / scale of the pyramid level, which is `LocalFeatures.scales`, ``strength`` the attention score;
orientations are written as 0 and not read. Locations have the same origin as ours.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.messages import DelfFeatures, array_of, parse_message
from delf_engine.interchange.records import local_features
from delf_engine.support.files import system_errors

_NUMBERS = ("x", "y", "scale", "orientation", "strength")  # of a feature, in their order

Floats = npt.NDArray[np.float32]


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
    if not data:
        return LocalFeatures.empty(image_size or (1, 1), dim)
    where = str(path)
    found = parse_message(DelfFeatures, data, where).feature
    if not found:
        raise FormatError(f"{where}: holds no feature; it is no file of DELF features, or damaged: fetch it again")
    numbers, descriptors = _regular(data, len(found[0].descriptor.float_list.value)) or _irregular(found, where)
    return local_features(
        where,
        keypoints=numbers[:, :2],
        scales=numbers[:, 2],
        scores=numbers[:, 4],
        descriptors=descriptors,
        image_size=image_size,
        normalise=normalise,
    )


def serialise_delf(features: LocalFeatures) -> bytes:
    """Return features as the bytes of a ``.delf`` file, the very ones that the published code writes."""
    records = np.repeat(_record(features.dim), len(features))
    records["descriptor"] = features.descriptors
    columns = (*features.keypoints.T, features.scales, np.zeros_like(features.scales), features.scores)
    records["numbers"]["value"] = np.column_stack(columns)
    return records.tobytes()


def _record(dim: int) -> npt.NDArray[np.void]:
    """Return the bytes of one feature, all floats 0, as an array of one: others differ in their floats alone."""
    message = DelfFeatures()
    one = message.feature.add(**dict.fromkeys(_NUMBERS, 0.0))
    one.descriptor.shape.dim.append(dim)
    one.descriptor.float_list.value.extend([0.0] * dim)
    data = message.SerializeToString()
    number = np.dtype([("tag", "u1"), ("value", "<f4")])
    head = len(data) - 4 * dim - number.itemsize * len(_NUMBERS)
    layout = [("head", "u1", (head,)), ("descriptor", "<f4", (dim,)), ("numbers", number, (len(_NUMBERS),))]
    return np.frombuffer(data, layout)


def _regular(data: bytes, dim: int) -> tuple[Floats, Floats] | None:
    """Return the numbers (N, 5) and the descriptors (N, dim), at once, if all features are laid out alike."""
    record = _record(dim)
    if not dim or len(data) % record.itemsize:
        return None
    records = np.frombuffer(data, record.dtype)
    if (records["head"] != record["head"]).any() or (records["numbers"]["tag"] != record["numbers"]["tag"]).any():
        return None
    return records["numbers"]["value"].astype(np.float32), records["descriptor"].astype(np.float32)


def _irregular(found: Any, where: str) -> tuple[Floats, Floats]:
    """Return what `_regular` does of features that protobuf has read, in any order and with whatever left out."""
    descriptors = [array_of(one.descriptor, f"{where}: feature {i}") for i, one in enumerate(found)]
    shapes = {descriptor.shape for descriptor in descriptors}
    if len(shapes) > 1 or len(descriptors[0].shape) != 1:
        raise FormatError(
            f"{where}: descriptors of the shapes {sorted(shapes)}, wanted one dimension, and the same for all: "
            "damaged or no file of DELF features, fetch or write it again"
        )
    numbers = [[getattr(one, name) for name in _NUMBERS] for one in found]
    return np.array(numbers, np.float32), np.stack(descriptors)
