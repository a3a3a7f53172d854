"""What a searcher of some parts does: it maps them, answers for them, and verifies where their features lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.features import LocalFeatures
from delf_engine.index import AnyIndex, Encoder
from delf_engine.index.contract import Found, Frequencies
from delf_engine.index.kinds import load_index
from delf_engine.reranking import RerankOptions, rerank_shortlist
from delf_engine.shards.parts import find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification


class HeldParts:
    """Some parts of a place, by their numbers, mapped from there.

    Nothing is copied but what comes from a store, and that has no name from when it is mapped: the system takes it
    back when the process ends, however it ends.
    """

    def __init__(self, address: str, numbers: Sequence[int], words: Encoder | None, threads: int) -> None:
        self._place, self._threads = Place(address), threads
        engine = read_plan(self._place).engine
        self._stores: dict[int, FeatureStore] = {}
        self._parts = find_parts(self._place, "index", numbers)
        self._indexes: list[AnyIndex] = []
        for part in self._parts:
            with part.opened(self._place, check=False) as folder:
                self._indexes.append(load_index(folder, engine.index, engine.profile, words))

    def counts(self) -> tuple[int, Frequencies | None]:
        """Return the number of images, and if scores depend on it how rare words are among them."""
        return sum(map(len, self._indexes)), added([index.word_frequencies() for index in self._indexes])

    def search(self, encoded: Sequence[Any], top_k: int, frequencies: Frequencies | None) -> list[Found]:
        """Return the best images for each query, which was encoded; words are as rare as `frequencies` says."""
        found = []
        for index in self._indexes:
            index.frequencies = index.frequencies or frequencies
            found.append(index.search_encoded(encoded, top_k, threads=self._threads))
        return merged(found, top_k)

    def verify(self, query: LocalFeatures, ids: Sequence[str], options: RerankOptions) -> dict[str, Verification]:
        """Return what is found of a query and images that are held, by their ids."""
        hits = rerank_shortlist(query, ids, self._features, options)
        return {hit.id: hit.verification for hit in hits if hit.verification is not None}

    def _features(self, image_id: str) -> LocalFeatures:
        at = next(at for at, index in enumerate(self._indexes) if image_id in index)
        if at not in self._stores:
            features = find_parts(self._place, "features", [self._parts[at].part])[0]
            self._parts[at].check(self._place, {"features": features.folder})
            with features.opened(self._place, check=False) as folder:
                self._stores[at] = FeatureStore.open(Path(folder), readonly=True)
        return self._stores[at].get(image_id)


def merged(found: Sequence[list[Found]], top_k: int) -> list[Found]:
    """Return for each query the best of what several have found; among equal scores their order holds."""
    best = []
    for answers in zip(*found, strict=True):
        ids = [image_id for names, _ in answers for image_id in names]
        scores = np.concatenate([values for _, values in answers])
        order = np.argsort(-scores, kind="stable")[:top_k]
        best.append(([ids[int(row)] for row in order], scores[order]))
    return best


def added(several: Sequence[Frequencies | None]) -> Frequencies | None:
    """Return the frequencies of words among all images of some, None if scores do not depend on them."""
    known = [each for each in several if each is not None]
    return (sum(images for images, _ in known), np.sum([having for _, having in known], axis=0)) if known else None
