"""All kinds of index behind one face, and some small images to put into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.config import load_profile
from delf_engine.index import CandidateIndex, Codebook, Mixture
from delf_engine.index.kinds import new_index
from helpers import random_features


def _drawn(seed: int, n: int) -> Any:
    return random_features(np.random.default_rng(seed), n, 8)


IMAGES = {f"image {i}": _drawn(i, n) for i, n in enumerate([20, 0, 1, 7, 50, 3, 30, 11])}
NAMES = list(IMAGES)
QUERY = _drawn(100, 25)
CODEBOOK, OTHER_CODEBOOK, MANY_WORDS = (Codebook(_drawn(n, n).descriptors) for n in (12, 13, 300))
MIXTURE, OTHER_MIXTURE = (Mixture(np.ones(12), CODEBOOK.centroids, np.full((12, 8), v)) for v in (0.1, 0.2))

#: Those that differ in what they keep.
KINDS = ["asmk", "bow", "kdtree", "ivf"]
_CHANGES: dict[str, dict[str, Any]] = {
    "asmk idf": {"idf": True},
    "kdtree randomised": {"search": "randomised", "neighbours": 5},
    "ivf": {"neighbours": 9},
    "ivf pq": {"codec": "pq", "neighbours": 9},
}
#: And the rest, for tests that draw one of them.
VARIANTS = ["asmk", "asmk idf", "bow", "vlad", "fisher", "kdtree", "kdtree randomised", "ivf", "ivf pq"]


class Kind:
    """How to make and load one of the indexes."""

    def __init__(self, name: str) -> None:
        self.full_name, self.name = name, name.partition(" ")[0]
        self.config: Any = self.changed(**_CHANGES.get(name, {}))
        others = {"kdtree": None, "fisher": MIXTURE, "ivf": MANY_WORDS if name == "ivf pq" else CODEBOOK}
        self.encoder: Any = others.get(self.name, CODEBOOK)

    def changed(self, **changes: Any) -> Any:
        return getattr(load_profile(), self.name).model_copy(update=changes)

    def new(self) -> Any:
        profile: Any = load_profile().model_copy(update={self.name: self.config})
        return new_index(self.name, 8, profile, self.encoder)  # type: ignore[arg-type]

    def load(self, path: Path, **options: Any) -> Any:
        return type(self.new()).load(path, self.encoder, **options)

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
