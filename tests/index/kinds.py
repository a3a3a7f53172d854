"""All kinds of index behind one face, and some small images to put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.config import load_profile
from delf_engine.index import AsmkIndex, CandidateIndex, Codebook, DenseIndex, IvfIndex, KdTreeIndex, Mixture
from helpers import random_features

_RNG = np.random.default_rng(0)
CODEBOOK = Codebook(random_features(_RNG, 12, 8).descriptors)
MANY_WORDS = Codebook(random_features(_RNG, 300, 8).descriptors)
MIXTURE = Mixture(np.ones(12), CODEBOOK.centroids, np.full((12, 8), 0.1))
IMAGES = {f"image {i}": random_features(_RNG, n, 8) for i, n in enumerate([20, 0, 1, 7, 50, 3, 30, 11])}
NAMES = list(IMAGES)
QUERY = random_features(_RNG, 25, 8)

#: Those that differ in what they keep.
KINDS = ["asmk", "bow", "kdtree", "ivf"]
#: And the rest, for tests that draw one of them.
VARIANTS = [*KINDS, "vlad", "fisher", "kdtree randomised", "ivf pq"]

_DENSE: dict[str, Any] = {"bow": CODEBOOK, "vlad": CODEBOOK, "fisher": MIXTURE}
_RANDOMISED = load_profile().kdtree.model_copy(update={"search": "randomised", "neighbours": 5})


class Kind:
    """How to make and load one of the indexes."""

    def __init__(self, name: str) -> None:
        self.full_name = name
        self.name: Any
        self.name, _, self.variant = name.partition(" ")
        self._cells = MANY_WORDS if self.variant == "pq" else CODEBOOK

    def new(self) -> Any:
        if self.name == "asmk":
            return AsmkIndex(CODEBOOK)
        if self.name in _DENSE:
            return DenseIndex(self.name, _DENSE[self.name])
        if self.name == "kdtree":
            return KdTreeIndex(8, _RANDOMISED if self.variant else None)
        config = load_profile().ivf.model_copy(update={"codec": self.variant or "uint8", "neighbours": 9})
        return IvfIndex(self._cells, config)

    def load(self, path: Path, check: bool | None = None, **options: Any) -> Any:
        if self.name == "asmk":
            return AsmkIndex.load(path, CODEBOOK, check=check, **options)
        if self.name in _DENSE:
            return DenseIndex.load(path, _DENSE[self.name], check=check, **options)
        if self.name == "kdtree":
            return KdTreeIndex.load(path, check=check, **options)
        return IvfIndex.load(path, self._cells, check=check, **options)

    def of(self, names: list[str]) -> Any:
        index = self.new()
        index.add(names, [IMAGES[name] for name in names])
        return index


def assert_same(index: CandidateIndex[Any, Any], wanted: CandidateIndex[Any, Any]) -> None:
    assert index.ids() == wanted.ids()
    assert len(index) == len(wanted)
    (ids, scores), (wanted_ids, wanted_scores) = index.search(QUERY, 99), wanted.search(QUERY, 99)
    assert ids == wanted_ids
    np.testing.assert_array_equal(scores, wanted_scores)
