"""``.delf`` files: the features of one image as the published DELF code writes them.

A file is one message ``DelfFeatures {repeated DelfFeature feature = 1}`` with ``DelfFeature {DatumProto descriptor
= 1; float x = 2; float y = 3; float scale = 4; float orientation = 5; float strength = 6}`` in proto2
(tensorflow/models, research/delf/delf/protos/feature.proto; feature_io.py writes it). Every field is set there and
so written even where it is 0, in the order of the numbers. An image without features is a file of no bytes.

``scale`` is 1 / scale of the pyramid level, which is `LocalFeatures.scales`, ``strength`` the attention score;
orientations are written as 0 and not read. Locations have the same origin as ours.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.files import write_bytes
from delf_engine.interchange.records import local_features
from delf_engine.wire import BYTES, FIXED32, message, parse_datum, read_typed_fields, serialise_datum, varint

__all__ = ["parse_delf", "read_delf", "serialise_delf", "write_delf"]

_NAMES = ("x", "y", "scale", "orientation", "strength")  # fields 2 to 6
_TAGS = tuple(number << 3 | FIXED32 for number in range(2, 7))
_FLOATS = 5 * len(_NAMES)  # bytes: a tag and a float each


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
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
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
    try:
        numbers, descriptors = _parse(data, where)
    except FormatError as error:
        raise FormatError(
            f"{error}; it is damaged or no file of DELF features, fetch or write it again"
        ) from error
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
    head = _head(features.dim)
    records = np.zeros(len(features), _record(len(head), features.dim))
    records["head"] = np.frombuffer(head, np.uint8)
    records["descriptor"] = features.descriptors
    records["numbers"]["tag"] = _TAGS
    columns = (*features.keypoints.T, features.scales, np.zeros_like(features.scales), features.scores)
    for column, values in enumerate(columns):
        records["numbers"]["value"][:, column] = values
    return records.tobytes()


def _head(dim: int) -> bytes:
    """Return the bytes of a feature that precede its descriptor's values; they depend on the dimension alone."""
    datum = serialise_datum(np.zeros(dim, np.float32))
    body = message(1, datum)
    size = len(body) + _FLOATS
    return varint(1 << 3 | BYTES) + varint(size) + body[: len(body) - 4 * dim]


def _record(head: int, dim: int) -> np.dtype[np.void]:
    """Return the layout of one feature, without gaps: all features of a file have the same length."""
    number = np.dtype([("tag", "u1"), ("value", "<f4")])
    return np.dtype([("head", "u1", (head,)), ("descriptor", "<f4", (dim,)), ("numbers", number, (len(_NAMES),))])


def _parse(data: bytes, where: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the numbers (N, 5), as in `_NAMES`, and the descriptors (N, D) of at least one feature."""
    numbers: list[list[int]] = []
    descriptors: list[npt.NDArray[np.float32]] = []
    for field, kind, value in read_typed_fields(data, where):
        if field != 1:
            continue
        at = f"{where}: feature {len(numbers)}"
        if kind != BYTES or not isinstance(value, bytes):
            raise FormatError(f"{at} is a number, not a message")
        found, descriptor = _feature(value, at)
        if not numbers:
            regular = _parse_regular(data, len(descriptor))
            if regular is not None:
                return regular
        elif len(descriptor) != len(descriptors[0]):
            raise FormatError(
                f"{at} has a descriptor of {len(descriptor)} dimensions, those before have {len(descriptors[0])}"
            )
        numbers.append(found)
        descriptors.append(descriptor)
    if not numbers:
        raise FormatError(f"{where}: holds no feature, only fields that are unknown")
    return np.array(numbers, np.uint32).view(np.float32), np.stack(descriptors)


def _parse_regular(data: bytes, dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Return what `_parse` returns, all at once, if every feature is laid out as the published code does it."""
    head = _head(dim) if dim else b""
    layout = _record(len(head), dim)
    if not head or len(data) % layout.itemsize:
        return None
    records = np.frombuffer(data, layout)
    if (records["head"] != np.frombuffer(head, np.uint8)).any() or (records["numbers"]["tag"] != _TAGS).any():
        return None
    return records["numbers"]["value"].astype(np.float32), records["descriptor"].astype(np.float32)


def _feature(data: bytes, where: str) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Return the bits of the numbers of one feature, and its descriptor (D,); numbers left out are 0."""
    bits = [0] * len(_NAMES)  # the bits of 0.0
    datum: bytes | None = None
    for field, kind, value in read_typed_fields(data, where):
        if field == 1:
            if not isinstance(value, bytes):
                raise FormatError(f"{where}: its descriptor is a number, not a message")
            datum = (datum or b"") + value  # a message in pieces is their concatenation
        elif 2 <= field < 2 + len(_NAMES):
            if kind != FIXED32 or not isinstance(value, int):
                raise FormatError(f"{where}: its {_NAMES[field - 2]} is not a float of 32 bits")
            bits[field - 2] = value
    if datum is None:
        raise FormatError(f"{where} has no descriptor")
    descriptor = parse_datum(datum, where=where)
    if descriptor.ndim != 1:
        raise FormatError(f"{where} has a descriptor of shape {descriptor.shape}, wanted one dimension")
    return bits, descriptor
