"""What a searcher of some parts does: it maps them, answers for them, and verifies where their features lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.features import LocalFeatures
from delf_engine.index import AnyIndex, Encoder
from delf_engine.index.contract import Found, Frequencies, IndexInfo
from delf_engine.index.kinds import load_index
from delf_engine.reranking import RerankOptions, rerank_batch
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

    def counts(self) -> tuple[IndexInfo, Frequencies | None]:
        """Return what is held, and if scores depend on it how rare words are among it."""
        infos = [index.info() for index in self._indexes]
        return total(infos), added([index.word_frequencies() for index in self._indexes])

    def ids(self, start: int, stop: int) -> list[str]:
        """Return some ids of images, in their order."""
        return list(chain.from_iterable(index.ids() for index in self._indexes))[start:stop]

    def known(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that are held."""
        return [image_id for image_id in ids if self._at(image_id) is not None]

    def features(self, ids: Iterable[str]) -> dict[str, LocalFeatures]:
        """Return the features of those images that are held."""
        return {image_id: features for image_id in ids if (features := self._features(image_id)) is not None}

    def search(
        self,
        encoded: Sequence[Any],
        top_k: int,
        frequencies: Frequencies | None,
        among: Sequence[str] | None = None,
        **limits: Any,
    ) -> list[Found]:
        """Return the best images for each query, which was encoded; words are as rare as `frequencies` says."""
        found = []
        for index in self._indexes:
            index.frequencies = index.frequencies or frequencies
            own = None if among is None else [image_id for image_id in among if image_id in index]
            found.append(index.search_encoded(encoded, top_k, among=own, threads=self._threads, **limits))
        return merged(found, top_k)

    def verify(
        self,
        queries: Mapping[str, LocalFeatures],
        heads: Mapping[str, Sequence[str]],
        options: RerankOptions,
    ) -> dict[str, dict[str, Verification]]:
        """Return for each query what is found of it and those of its candidates that are held, by their ids."""
        held = {query: self.known(ids) for query, ids in heads.items()}
        rankings = rerank_batch(queries, held, self._features, replace(options, workers=self._threads))
        return {
            query: {hit.id: hit.verification for hit in hits if hit.verification is not None}
            for query, hits in rankings.items()
        }

    def _at(self, image_id: str) -> int | None:
        return next((at for at, index in enumerate(self._indexes) if image_id in index), None)

    def _features(self, image_id: str) -> LocalFeatures | None:
        if (at := self._at(image_id)) is None:
            return None
        if at not in self._stores:
            features = find_parts(self._place, "features", [self._parts[at].part])[0]
            self._parts[at].check(self._place, {"features": features.folder})
            with features.opened(self._place, check=False) as folder:
                self._stores[at] = FeatureStore.open(Path(folder), readonly=True)
        return self._stores[at].get(image_id)


def total(infos: Sequence[IndexInfo]) -> IndexInfo:
    """Return what several indexes of one kind, at least one, hold together."""
    names = ("images", "removed", "entries", "bytes", "segments")
    return replace(infos[0], **{name: sum(getattr(info, name) for info in infos) for name in names})


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
