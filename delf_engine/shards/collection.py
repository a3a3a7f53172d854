"""The state of an engine whose images others hold: it asks all of them, and puts together what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, cast

from delf_engine.engine.directory import empty_index
from delf_engine.engine.fine import FineSource
from delf_engine.engine.manifest import Manifest
from delf_engine.engine.state import EngineState
from delf_engine.errors import ConfigError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.index import AnyIndex, Encoder, SearchBy
from delf_engine.index.contract import Found, Frequencies, IndexInfo, check_ids
from delf_engine.reranking import RerankOptions
from delf_engine.shards.searching import added, merged, total
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification

_KEPT = 1 << 20  # ids that are known to be there, or not


class Holders(Protocol):
    """Several `HeldParts`, wherever they are, in the order of their parts."""

    def ask(self, method: str, *arguments: Any, only: int | None = None, **options: Any) -> list[Any]:
        """Return what the method of each returns, or of the one with this number."""

    def share(self, value: Any) -> Any:
        """Return what to give in place of a large value, which all are given."""

    def close(self) -> None:
        """End them."""


class HeldState(EngineState):
    """An engine that is only read, and never changes; `place` is what messages call it."""

    def __init__(
        self, place: str, manifest: Manifest, words: Encoder | None, holders: Holders, parts: int
    ) -> None:
        self.directory, self.manifest, self.readonly = Path(place), manifest, True
        self.root = manifest.root
        infos, frequencies = zip(*holders.ask("counts"), strict=True)
        self.index = cast("AnyIndex", _Index(empty_index(manifest, words), total(infos), frequencies, holders))
        self._images = _Images([info.images for info in infos], holders)
        self.store = cast("FeatureStore", self._images)
        self.fine = FineSource(None, manifest.profile)
        self._holders, self._parts = holders, parts

    def close(self) -> None:
        """End those that hold the images."""
        self._holders.close()

    def store_info(self) -> dict[str, Any]:
        """Return the number of parts."""
        return {"parts": self._parts}

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return those that are ids of images, as they are written."""
        return self._images.known(list(ids))

    def page(self, offset: int, limit: int) -> list[str]:
        """Return some ids, in the order of the parts."""
        return self._images.page(offset, limit)


class _Images:
    """What reads a `FeatureStore`, of features that others hold; and what verifies pairs where they lie."""

    def __init__(self, counts: Sequence[int], holders: Holders) -> None:
        self._holders, self._counts = holders, counts
        self._known: dict[str, bool] = {}

    def get(self, image_id: str) -> LocalFeatures:
        """Return the features of an image; an `UnknownIdError` if it is not there."""
        return self.get_many([image_id])[0]

    def get_many(self, ids: Iterable[str]) -> list[LocalFeatures]:
        """Return the features of images; an `UnknownIdError` if one is not there."""
        wanted = list(ids)
        found: dict[str, LocalFeatures] = {}
        for each in self._holders.ask("features", wanted) if wanted else ():
            found |= each
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise UnknownIdError(f"no part holds an image {missing[0]!r}")
        return [found[image_id] for image_id in wanted]

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those ids that are there: what is not remembered is asked for at once."""
        kept = self._known  # other threads may forget them meanwhile
        known = {image_id: kept[image_id] for image_id in ids if image_id in kept}
        if new := [image_id for image_id in ids if image_id not in known]:
            held = set(chain.from_iterable(self._holders.ask("known", new)))
            known |= {image_id: image_id in held for image_id in new}
            if len(kept) > _KEPT:
                kept = self._known = {}
            kept.update(known)
        return {image_id for image_id in ids if known[image_id]}

    def page(self, offset: int, limit: int) -> list[str]:
        """Return some ids, in the order of the parts."""
        out: list[str] = []
        for number, count in enumerate(self._counts):
            start, stop = max(0, offset), min(count, offset + limit)
            if start < stop:
                out += self._holders.ask("ids", start, stop, only=number)[0]
            offset -= count
        return out

    def ids(self) -> list[str]:
        """Return all ids, in the order of the parts."""
        return self.page(0, len(self))

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and bool(self.known([image_id]))

    def __len__(self) -> int:
        return sum(self._counts)

    def verify_here(
        self, queries: Mapping[str, LocalFeatures], heads: Mapping[str, Sequence[str]], options: RerankOptions
    ) -> dict[str, dict[str, Verification]]:
        """Return for each query what is found of it and those of its candidates that are there, by their ids."""
        bare = replace(options, calibration=None, on_missing="ignore", confirm=0, device="cpu")
        given = self._holders.share(queries) if len(queries) > 1 else queries
        verified: dict[str, dict[str, Verification]] = {query: {} for query in queries}
        for each in self._holders.ask("verify", given, heads, bare):
            for query, found in each.items():
                verified[query] |= found
        return verified


class _Index:
    """What searches a `CandidateIndex`, of parts that others hold; `empty` makes queries ready, once for all."""

    def __init__(
        self, empty: AnyIndex, info: IndexInfo, frequencies: Sequence[Frequencies | None], holders: Holders
    ) -> None:
        self._empty, self._info, self._holders = empty, info, holders
        self.encoder, self.vectors = empty.encoder, empty.vectors
        rare = added(frequencies)
        self._frequencies = rare and holders.share(rare)

    def search(self, features: LocalFeatures, top_k: int, **limits: Any) -> Found:
        """Search with one query; see `search_many`."""
        return self.search_many([features], top_k, **limits)[0]

    def search_many(
        self,
        queries: Iterable[LocalFeatures],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        by: SearchBy = "local",
        threads: int | None = None,
    ) -> list[Found]:
        """Return for each query what one index of all parts would, to the bit; see `CandidateIndex.search_many`.

        A `ConfigError`, too, if scores are to be fused: their deviation is known of one index only.
        """
        if by == "fused":
            raise ConfigError("candidates='fused' needs the scores of all images in one index; merge the parts")
        limits: dict[str, Any] = {"exclude": check_ids(exclude), "min_score": min_score}
        if among is not None:
            limits["among"] = wanted = check_ids(among)
            known = set(chain.from_iterable(self._holders.ask("known", wanted)))
            if unknown := [image_id for image_id in wanted if image_id not in known]:
                raise UnknownIdError(f"among: no part holds an image {unknown[0]!r}")
        ready = self._empty.encoded(queries, by)
        given = self._holders.share(ready) if len(ready) > 1 else ready  # one travels faster with the call
        return merged(self._holders.ask("search", given, top_k, self._frequencies, **limits), top_k)

    def info(self) -> IndexInfo:
        """Return what all parts hold together."""
        return self._info

    def __len__(self) -> int:
        return self._info.images

    def __repr__(self) -> str:
        return f"{type(self._empty).__name__}({len(self)} images, in parts)"
