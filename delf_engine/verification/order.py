"""One order of the two images of a pair, so that A and B are counted as B and A are."""

from __future__ import annotations

from delf_engine.features import LocalFeatures


def goes_first(a: LocalFeatures, b: LocalFeatures) -> bool:
    """Tell whether image A comes before B in every order of the two: the smaller view, then by content.

    The smaller view is the one whose features take less room: a query that is cut out goes before a photograph,
    as in the published pipelines. False for both if they are alike in all that verification looks at.
    """
    room_a, room_b = room(a), room(b)
    if room_a != room_b:
        return room_a < room_b
    for name in ("keypoints", "scales", "descriptors"):  # most pairs differ in the first
        of_a, of_b = getattr(a, name).tobytes(), getattr(b, name).tobytes()
        if of_a != of_b:
            return bool(of_a < of_b)
    return a.image_size < b.image_size


def room(features: LocalFeatures) -> float:
    """Return the part of the image, from 0 to 1, that the box around all keypoints takes."""
    if not len(features):
        return 0.0
    width, height = (features.keypoints.max(axis=0) - features.keypoints.min(axis=0)).tolist()
    return float(width * height / (features.image_size[0] * features.image_size[1]))
