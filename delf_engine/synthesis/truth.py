"""Which photographs of the gallery show what a query shows: from the geometry alone.

A query is what it shows of its landmark: samples of the landmark's faces, each with the pixels of the query that
it stands for. Another photograph of the landmark is

- easy, if it shows at least `EASY_OVERLAP` of them, `EASY_SIZE` large, from within `EASY_ANGLE`, in clear light;
- hard, if it shows at least `HARD_OVERLAP` of them, `HARD_SIZE` large, from within `HARD_ANGLE`;
- junk otherwise: a sliver, other sides, or only the houses around it.

All photographs of other places are negatives, those of the landmark's look-alike as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delf_engine.evaluation.ground_truth import GroundTruth
from delf_engine.synthesis.records import PhotoRecord

__all__ = [
    "EASY_ANGLE", "EASY_OVERLAP", "EASY_SIZE", "HARD_ANGLE", "HARD_OVERLAP", "HARD_SIZE",
    "angle", "box_of", "ground_truth", "overlap", "relation", "size_in",
]  # fmt: skip

#: Share of what the query shows of the landmark, counted in the query's pixels, that is seen in the other as well.
EASY_OVERLAP, HARD_OVERLAP = 0.5, 0.15

#: Degrees between the directions in which the two cameras stand, from the landmark.
EASY_ANGLE, HARD_ANGLE = 35.0, 75.0

#: Side of a square of as many pixels as show the query's faces, as a share of that of the picture.
EASY_SIZE, HARD_SIZE = 0.35, 0.1


def overlap(query: PhotoRecord, other: PhotoRecord) -> float:
    """Return which share of what `query` shows of the landmark is seen in `other`, in pixels of the query."""
    whole = common = 0.0
    for name, face in query.faces.items():
        samples = int(face.seen.sum())
        if not samples:
            continue
        whole += face.pixels
        if name in other.faces:
            common += face.pixels * int((face.seen & other.faces[name].seen).sum()) / samples
    return common / whole if whole else 0.0


def angle(query: PhotoRecord, other: PhotoRecord) -> float:
    """Return the angle in degrees between the two cameras, as seen from the middle of the landmark's foot."""
    if query.camera is None or other.camera is None:
        return 180.0
    a, b = query.camera.centre, other.camera.centre
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def size_in(query: PhotoRecord, other: PhotoRecord) -> float:
    """Return how large the faces that `query` shows are in `other`, as a share of a side of the picture."""
    pixels = sum(face.pixels for name, face in other.faces.items() if name in query.faces)
    return float(np.sqrt(pixels / (other.size[0] * other.size[1])))


def relation(query: PhotoRecord, other: PhotoRecord) -> str | None:
    """Return "easy", "hard" or "junk", or None for a photograph of another place."""
    if query.landmark is None or query.landmark != other.landmark:
        return None
    seen, turned, size = overlap(query, other), angle(query, other), size_in(query, other)
    if seen >= EASY_OVERLAP and turned <= EASY_ANGLE and size >= EASY_SIZE and other.clear:
        return "easy"
    if seen >= HARD_OVERLAP and turned <= HARD_ANGLE and size >= HARD_SIZE:
        return "hard"
    return "junk"


def box_of(query: PhotoRecord) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 around the landmark in the query's picture; all of it if nothing of it shows."""
    x0, y0, x1, y1 = query.box if query.box is not None else (0, 0, *query.size)
    return (float(x0), float(y0), float(x1), float(y1))


def ground_truth(gallery: Sequence[PhotoRecord], queries: Sequence[PhotoRecord]) -> GroundTruth:
    """Return the ground truth of a gallery, in its order."""
    lists: dict[str, list[np.ndarray]] = {"easy": [], "hard": [], "junk": []}
    for query in queries:
        relations = [relation(query, other) for other in gallery]
        for kind, each in lists.items():
            each.append(np.array([i for i, found in enumerate(relations) if found == kind], np.int64))
    return GroundTruth(
        tuple(record.name for record in gallery),
        tuple(record.name for record in queries),
        np.array([box_of(query) for query in queries], np.float64).reshape(-1, 4),
        tuple(lists["easy"]),
        tuple(lists["hard"]),
        tuple(lists["junk"]),
    )
