"""`CandidateIndex`: what all kinds of index do, whatever they keep of an image and however they search it."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import Config, Profile, parse_config
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.index.contract import (
    Found,
    Frequencies,
    IndexInfo,
    SearchBy,
    check_batch,
    check_features,
    check_ids,
    check_min_score,
    check_queries,
    check_top_k,
)
from delf_engine.index.fusion import fuse_scores
from delf_engine.index.segments import disk
from delf_engine.index.segments.collection import Collection, IfDamaged
from delf_engine.index.segments.limits import allowed_rows, best
from delf_engine.index.segments.segment import Layout, Segment
from delf_engine.index.vectors import WithVectors, global_scores, kept_vector, query_vector
from delf_engine.support.threads import check_threads, in_threads

if TYPE_CHECKING:
    from typing import Self

Q = TypeVar("Q")  # a query as it is searched with
Vector: TypeAlias = npt.NDArray[np.float32]
#: A query as it is searched with, None if local features are not compared, and its global descriptor if these are.
Encoded: TypeAlias = tuple[Q | None, Vector | None]
ConfigT = TypeVar("ConfigT", bound=Config)


class _Limits(NamedTuple):
    """What a search may return."""

    top_k: int
    allowed: npt.NDArray[np.bool_] | None  # which rows, (n,); None: all
    min_score: float | None


class CandidateIndex(ABC, Generic[Q, ConfigT]):
    """Finds the images of a collection that may show what a query shows.

    Equal collections, added in the same order, give equal results: bit for bit, however they came about, and
    whether or not they were saved in between. Images without a feature are held, and never found.

    A kind says what it keeps of images, what it makes of queries, and how it scores every image for some of them.

    Parameters
    ----------
    dim : int
        Descriptor dimension D.
    layout : Layout
        What is kept of images.
    encoder : Codebook, Mixture or None
        What they are encoded by.
    config : Config
        Options of the kind.
    """

    kind: str
    _fixed: tuple[str, ...] = ()  # options that indexed images depend on
    _ready: ClassVar[int] = 64  # queries made ready at a time

    def __init__(self, dim: int, layout: Layout, encoder: Encoder | None, config: ConfigT) -> None:
        self.config = config
        self._dim = dim
        self.encoder = encoder
        self._collection = Collection(self.kind, layout)
        self.vectors = 0  # components of the global descriptors that are kept; 0: none are
        #: How rare words are is that among all images of which these are some; None: among these.
        self.frequencies: Frequencies | None = None

    def keep_vectors(self, length: int) -> None:
        """Let an index that is new and empty keep the global descriptors of its images, of `length` components."""
        self.vectors = length
        if length:
            self._collection = Collection(self.kind, WithVectors(self._collection.layout, length))

    # What a kind brings along.

    @classmethod
    def _kinds(cls) -> tuple[str, ...]:
        """Return the kinds of saved indexes that `load` opens."""
        return (cls.kind,)

    @classmethod
    def _empty(cls, header: Mapping[str, Any], kind: str, encoder: Any, config: Any) -> Self:
        """Return an empty index as the manifest describes it."""
        made: Any = cls
        index: Self = made(encoder, config)
        return index

    @abstractmethod
    def _images(self, items: Sequence[LocalFeatures], threads: int) -> Sequence[Any]:
        """Return what is kept of images, as the layout takes it."""

    @abstractmethod
    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: Any) -> Sequence[Q]:
        """Return what queries, at least one, are searched with."""

    @abstractmethod
    def _score(self, query: Q, threads: int, session: Any) -> npt.NDArray[np.float32]:
        """Return the score of every row, (n,) through all segments, at least one; 0 for what is dead."""

    @abstractmethod
    def _entries(self, segment: Segment) -> int:
        """Return how many of what `IndexInfo` counts as entries a segment holds."""

    def _session(self) -> Any:
        """Return what is made once for all queries, the collection being flushed."""

    def _header(self) -> dict[str, Any]:
        """Return what the manifest says of how the index was made."""
        encoder = None if self.encoder is None else self.encoder.hash
        config = self.config.model_dump(mode="json")
        return {"dim": self.dim, "encoder": encoder, "config": config, "vectors": self.vectors}

    def _changed(self) -> None:
        """Forget what was derived from the images that were there, and from their order."""

    # What all of them do.

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self._dim

    def add(
        self, ids: Sequence[str], features: Sequence[LocalFeatures], *, threads: int | None = None
    ) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Until then they are held in memory: save now and then while adding many.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.
        threads : int or None
            That work; the index is the same with any number. None: one a usable core.

        Returns
        -------
        list of str
            The ids that were new. One that is there already, or occurs twice, is left alone.

        Raises
        ------
        ConfigError
            If lengths differ, an id is empty or not a string, or `threads` is below 1.
        FeatureError
            If an item is no `LocalFeatures`.
        MismatchError
            If descriptors have another dimension than the index.
        """
        threads = check_threads(threads)
        batch = check_batch(ids, features, self.dim)
        new = [image_id for image_id in batch if image_id not in self]
        vectors = [kept_vector(batch[image_id], self.vectors, image_id) for image_id in new if self.vectors]
        payloads = self._images([batch[image_id] for image_id in new], threads)
        if self.vectors:
            payloads = list(zip(payloads, vectors, strict=True))
        self._collection.add(dict(zip(new, payloads, strict=True)))
        if new:
            self._changed()
        return new

    def extend(self, other: Self) -> None:
        """Take the images of another index behind its own; nothing is encoded again, and arrays are shared.

        Results of searches are those of an index to which all images were added in this order.

        Raises
        ------
        MismatchError
            If the other one was made with other words or options, or holds an image that is here, too.
        """
        if type(other) is not type(self) or other._header() != self._header():
            raise MismatchError(f"{other!r} was made with other words or options than {self!r}")
        self._collection.flush()
        other._collection.flush()
        ids = other.ids()
        if known := [image_id for image_id, row in zip(ids, self._collection.rows(ids), strict=True) if row >= 0]:
            raise MismatchError(f"the index holds image {known[0]!r} already")
        self._collection.extend(other._collection)
        self._changed()

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images. They are found no more at once, and gone from disk after the next `save`.

        Raises
        ------
        UnknownIdError
            If one is not in the index; none is removed then.
        """
        self._collection.remove(check_ids(ids))
        self._changed()

    def flush(self) -> None:
        """Make images that were added ready to be searched, as the next search would otherwise."""
        self._collection.flush()

    def copy(self) -> Self:
        """Return an index of the same images, all flushed, that goes its own way; their arrays are shared."""
        other = copy.copy(self)
        other._collection = self._collection.copy()
        other._changed()
        return other

    def repeated(self, copies: int) -> Self:
        """Return an index that holds all images so many times under other ids: a large one to measure with."""
        self._collection.flush()
        other = self.copy()
        other._collection.repeat(copies)
        return other

    def compact(self) -> None:
        """Let the next `save` merge all segments into one without removed images.

        It is written straight to disk beside the old segments, which are deleted once the new one is complete:
        until then both take space. Results of searches stay the same.
        """
        self._collection.compact()

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

    def encoded(self, queries: Iterable[LocalFeatures], by: SearchBy = "local") -> list[Encoded[Q]]:
        """Return what queries are searched with, in all indexes of these words and options; not KD-trees, IVF."""
        several = check_queries(queries, self.dim)
        vectors, local = self._described(several, by), several and by != "global"
        ready = self._queries(several, check_threads(None), None) if local else [None] * len(several)
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

    def __len__(self) -> int:
        return len(self._collection)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._collection

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""
        return list(self._collection)

    @property
    def mark(self) -> dict[str, Any] | None:
        """A note of the caller, of plain JSON values, that is saved and loaded with the index.

        An engine notes which state of its feature store the index has followed to.
        """
        return self._collection.mark

    @mark.setter
    def mark(self, values: dict[str, Any] | None) -> None:
        self._collection.mark = values

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the damaged segments that the index was loaded without; the next `save` deletes them."""
        return self._collection.damaged

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        self._collection.flush()
        segments = self._collection.segments
        return IndexInfo(
            kind=self.kind,
            images=len(self),
            removed=sum(segment.dead for segment in segments),
            entries=sum(self._entries(segment) for segment in segments),
            bytes=sum(array.nbytes for segment in segments for array in segment.arrays.values()),
            segments=len(segments),
            dim=self.dim,
            vectors=self.vectors,
        )

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write what is new since the last save into `directory`; what an index is made with is not written.

        Parameters
        ----------
        directory : path
            Made if need be.
        overwrite : bool
            Replace another index that is there.

        Raises
        ------
        MismatchError
            If `directory` holds another index and `overwrite` is not set.
        LockedError
            If another process is saving to it, or has since this index was loaded.
        FormatError
            If it cannot be written. What was saved before is still there.
        """
        self._collection.save(directory, self._header(), overwrite=overwrite)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        encoder: Encoder | None = None,
        config: ConfigT | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> Self:
        """Open an index that was saved. Its arrays are memory-mapped: this takes milliseconds at any size.

        Parameters
        ----------
        directory : path
        encoder : Codebook, Mixture or None
            The one it was built with; None for KD-trees.
        config : Config, optional
            Options for searching, by default those it was saved with.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        MismatchError
            If it was built with another codebook or mixture, or with other options for indexed images.
        FormatError
            If it is missing, damaged, cut short, or of another kind or version.
        ConfigError
            If `damaged` is neither of the two.
        """
        manifest = disk.read_manifest(Path(directory), *cls._kinds())
        try:
            header, kind = manifest["header"], manifest["kind"]
            if header["encoder"] != (None if encoder is None else encoder.hash):
                raise MismatchError(
                    f"{directory}: the index was built with {_named(header['encoder'])}, not with "
                    f"{_named(None if encoder is None else encoder.hash)}; give that one, or build the index again"
                )
            options: Any = Profile.model_fields[kind].annotation
            saved = parse_config(options, header["config"], where=str(directory))
            index = cls._empty(header, kind, encoder, saved)
            index.keep_vectors(header.get("vectors", 0))
            if config is not None:
                for name in index._fixed:
                    if getattr(config, name) != getattr(saved, name):
                        raise MismatchError(
                            f"{directory}: the index was built with {name} = {getattr(saved, name)}, asked for "
                            f"{getattr(config, name)}; build it again"
                        )
                index.config = config
            index._collection.open(directory, header, check=check, damaged=damaged)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{directory}: the manifest of the index is damaged: {error!r}") from error
        return index


def _named(encoder: str | None) -> str:
    return "no words" if encoder is None else f"words {encoder[:8]}"
