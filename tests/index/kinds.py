"""Both kinds of index behind one face, and some small images to put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from helpers import random_features

from delf_engine.index import AsmkIndex, CandidateIndex, Codebook, KdTreeIndex

RNG = np.random.default_rng(0)
CODEBOOK = Codebook(random_features(RNG, 12, 8).descriptors)
IMAGES = {f"image {i}": random_features(RNG, n, 8) for i, n in enumerate([20, 0, 1, 7, 50, 3, 30, 11])}
NAMES = list(IMAGES)
QUERY = random_features(RNG, 25, 8)


class Kind:
    """How to make and load one of the indexes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def new(self) -> Any:
        return AsmkIndex(CODEBOOK) if self.name == "asmk" else KdTreeIndex(8)

    def load(self, path: Path, check: bool | None = None, **options: Any) -> Any:
        if self.name == "asmk":
            return AsmkIndex.load(path, CODEBOOK, check=check, **options)
        return KdTreeIndex.load(path, check=check, **options)

    def of(self, names: list[str]) -> Any:
        index = self.new()
        index.add(names, [IMAGES[name] for name in names])
        return index


def assert_same(index: CandidateIndex, wanted: CandidateIndex) -> None:
    assert index.ids() == wanted.ids()
    assert len(index) == len(wanted)
    (ids, scores), (wanted_ids, wanted_scores) = index.search(QUERY, 99), wanted.search(QUERY, 99)
    assert ids == wanted_ids
    np.testing.assert_array_equal(scores, wanted_scores)
