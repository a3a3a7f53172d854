"""Verifications of photographs that were turned first, or given in the other order: the same answer for a pair.

Coarse descriptors and affine models know which way is up; where two photographs do not agree on it, one is turned.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delf_engine.verification.fine import PLANAR_BY_CHANCE, FineEvidence
from delf_engine.verification.geometry import at_customary_scale, turned_round
from delf_engine.verification.result import Verification


def turned_back(found: Verification, image_size: tuple[int, int], rotation: int) -> Verification:
    """Return the verification of image A as it is, from that of the turned image A.

    Parameters
    ----------
    found : Verification
        Verification of A, turned by `rotation` degrees counterclockwise, and B.
    image_size : (width, height)
        Size of A as it is.
    rotation : int
        0, 90, 180 or 270.
    """
    transform = found.transform
    if transform is not None:
        transform = transform @ _turn(image_size, rotation)
        if found.model == "fundamental":
            transform = transform / np.linalg.norm(transform)
            transform = transform if transform.flat[np.abs(transform).argmax()] > 0 else -transform
        else:
            transform = at_customary_scale(transform)
    return replace(found, transform=transform, rotation=rotation % 360)


def exchanged(found: Verification) -> Verification:
    """Return the verification of B and A, from that of A and B."""
    order = np.argsort(found.matches[:, 1], kind="stable")
    return replace(
        found,
        transform=None if found.transform is None else turned_round(found.model, found.transform),
        matches=found.matches[order, ::-1],
        similarities=found.similarities[order],
        fine=None if found.fine is None else found.fine.inverted(),
        rotation=-found.rotation % 360,
    )


def turns_by_evidence(evidence: FineEvidence | None, *, exchange: bool = False) -> tuple[int, ...]:
    """Return the turns of image A, or with `exchange` of image B, that are worth an extraction.

    Fine matches know no upright: they say by how much an image is turned, or that nothing agrees in any position.
    Without them, or in small photographs, it may be 90, 270 or 180 degrees.
    """
    if evidence is None or not evidence.conclusive:
        return 90, 270, 180
    if evidence.homography is None or evidence.planar <= PLANAR_BY_CHANCE:
        return ()
    H = np.array((evidence.inverted() if exchange else evidence).homography)
    # The way that points to the right of A take in B; y goes down.
    turn = round(math.degrees(math.atan2(-H[1, 0], H[0, 0])) / 90) % 4 * 90
    return (turn,) if turn else ()


def _turn(image_size: tuple[int, int], rotation: int) -> npt.NDArray[np.float64]:
    """Return the map, (3, 3), from pixels of an image to those of the turned one."""
    width, height = image_size
    right, down = width - 1.0, height - 1.0
    maps = (
        [[1, 0, 0], [0, 1, 0]],
        [[0, 1, 0], [-1, 0, right]],
        [[-1, 0, right], [0, -1, down]],
        [[0, -1, down], [1, 0, 0]],
    )
    return np.array([*maps[rotation // 90 % 4], [0, 0, 1]], np.float64)
