"""How all kinds of index are searched: queries are made ready, every image is scored, the best are returned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.features import LocalFeatures
from delf_engine.index.contract import (
    Found,
    Frequencies,
    SearchBy,
    check_features,
    check_ids,
    check_min_score,
    check_queries,
    check_top_k,
)
from delf_engine.index.fusion import fuse_scores
from delf_engine.index.segments.collection import Collection
from delf_engine.index.segments.limits import allowed_rows, best
from delf_engine.index.vectors import global_scores, query_vector
from delf_engine.support.threads import check_threads, in_threads

Q = TypeVar("Q")  # a query as it is searched with
Vector: TypeAlias = npt.NDArray[np.float32]
#: A query as it is searched with, None if local features are not compared, and its global descriptor if these are.
Encoded: TypeAlias = tuple[Q | None, Vector | None]


class _Limits(NamedTuple):
    """What a search may return."""

    top_k: int
    allowed: npt.NDArray[np.bool_] | None  # which rows, (n,); None: all
    min_score: float | None


class SearchedCollection(ABC, Generic[Q]):
    """A collection of images that a kind of index scores."""

    _ready: ClassVar[int] = 64  # queries made ready at a time
    _collection: Collection
    _dim: int
    vectors: int
    #: How rare words are is that among all images of which these are some; None: among these.
    frequencies: Frequencies | None = None

    @abstractmethod
    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: Any) -> Sequence[Q]:
        """Return what queries, at least one, are searched with."""

    @abstractmethod
    def _score(self, query: Q, threads: int, session: Any) -> npt.NDArray[np.float32]:
        """Return the score of every row, (n,) through all segments, at least one; 0 for what is dead."""

    def _session(self) -> Any:
        """Return what is made once for all queries, the collection being flushed."""

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self._dim

    def search(
        self,
        features: LocalFeatures,
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        by: SearchBy = "local",
    ) -> Found:
        """Return the images most similar to a query.

        Parameters
        ----------
        features : LocalFeatures
            Features of the query.
        top_k : int
            Images returned at most. Only images with a score above 0 are.
        among : iterable of str or None
            These images only; None: any. Others are left out of a ranking of the whole collection, and scores stay
            the same; so it is with those that the next two leave out.
        exclude : iterable of str
            All but these, such as the query itself. Ids that the index does not hold are ignored.
        min_score : float or None
            Leave out images with a lower score, compared in float64. None: any above 0.
        by : "local", "global" or "fused"
            What is compared: local features, in the way of the kind; global descriptors, by their cosine; or both,
            whose scores `fuse_scores` adds.

        Returns
        -------
        ids : list of str
            Best first, ties in the order of insertion.
        scores : (K,) float32

        Raises
        ------
        ConfigError
            If `top_k` is below 1, ids are a single string, empty or no strings, or `min_score` is not finite.
        UnknownIdError
            If an id of `among` is not in the index.
        MismatchError
            If descriptors have another dimension than the index, or it keeps no global ones.
        FormatError
            If a memory-mapped segment turns out to be damaged.
        """
        check_features(features, self.dim, "query")
        options: Any = {"among": among, "exclude": exclude, "min_score": min_score, "by": by}
        return self.search_many([features], top_k, **options)[0]

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
        """Search with many queries at once.

        Parameters
        ----------
        queries : iterable of LocalFeatures
        top_k, among, exclude, min_score, by
            As in `search`, for every query. Ids are looked up once.
        threads : int or None
            None: one a usable core.

        Returns
        -------
        list of (ids, scores)
            What `search` returns for each query: the same bits with any number of threads.

        Raises
        ------
        ConfigError
            If `threads` is below 1. Otherwise as `search`; nothing is searched if one query does not fit.
        """
        several, threads = check_queries(queries, self.dim), check_threads(threads)
        limits = self._limits(top_k, among, exclude, min_score)
        out: list[Found] = []
        if not several:  # nothing to make a session for, which may take long
            return out
        vectors = self._described(several, by)
        session = None if by == "global" else self._session()
        for start in range(0, len(several), self._ready):
            block = several[start : start + self._ready]
            ready = [None] * len(block) if by == "global" else self._queries(block, threads, session)
            encoded = zip(ready, vectors[start : start + self._ready], strict=True)
            out += self._found(list(encoded), limits, threads, session)
        return out

    def encoded(
        self, queries: Iterable[LocalFeatures], by: SearchBy = "local", threads: int | None = None
    ) -> list[Encoded[Q]]:
        """Return what queries are searched with, in all indexes of these words and options; not KD-trees, IVF."""
        several, threads = check_queries(queries, self.dim), check_threads(threads)
        vectors, local = self._described(several, by), several and by != "global"
        ready = self._queries(several, threads, None) if local else [None] * len(several)
        return list(zip(ready, vectors, strict=True))

    def search_encoded(
        self,
        queries: Sequence[Encoded[Q]],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        threads: int | None = None,
    ) -> list[Found]:
        """Do what `search_many` does, for what `encoded` has returned."""
        threads, limits = check_threads(threads), self._limits(top_k, among, exclude, min_score)
        return self._found(queries, limits, threads, self._session())

    def _limits(
        self, top_k: int, among: Iterable[str] | None, exclude: Iterable[str], min_score: float | None
    ) -> _Limits:
        """Check what a search may return, of the collection as it is now."""
        top_k, lowest = check_top_k(top_k), check_min_score(min_score)
        wanted, left_out = None if among is None else check_ids(among), check_ids(exclude)
        self._collection.flush()
        return _Limits(top_k, allowed_rows(self._collection, wanted, left_out), lowest)

    def _described(self, queries: Sequence[LocalFeatures], by: SearchBy) -> Sequence[Vector | None]:
        """Return the global descriptors of queries, None of each if they are not compared."""
        return [None if by == "local" else query_vector(features, self.vectors) for features in queries]

    def _found(self, queries: Sequence[Encoded[Q]], limits: _Limits, threads: int, session: Any) -> list[Found]:
        segments, inner = self._collection.segments, threads if len(queries) == 1 else 1

        def found(i: int) -> Found:
            if not segments:
                return [], np.empty(0, np.float32)
            local, vector = queries[i]
            scores = None if local is None else self._score(local, inner, session)
            if vector is not None:
                cosines = global_scores(vector, segments, inner)
                alive = np.concatenate([segment.alive for segment in segments])
                scores = cosines if scores is None else fuse_scores(scores, cosines, alive)
            assert scores is not None
            rows = best(scores, limits.top_k, allowed=limits.allowed, min_score=limits.min_score)
            return self._collection.names_of(rows), scores[rows]

        return in_threads(found, len(queries), threads)

    def word_frequencies(self) -> Frequencies | None:
        """Return how many images there are, and how many have each word; None where scores do not depend on it."""
        return None
