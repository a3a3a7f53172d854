"""`BaseIndex`: what all kinds of index do alike, whatever they keep of an image and however they search it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import Config, parse_config
from delf_engine.errors import MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.collection import Attachment, Collection, IfDamaged, Layout
from delf_engine.index.contract import Found, IndexInfo, Progress, check_batch, check_queries, check_query
from delf_engine.index.limits import Limits
from delf_engine.index.maintenance import Maintained
from delf_engine.support.threads import check_threads, in_threads

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BaseIndex", "saved_options"]

Q = TypeVar("Q")  # a query as it is searched with
ConfigT = TypeVar("ConfigT", bound=Config)


class BaseIndex(Maintained, ABC, Generic[Q]):
    """Images of a collection, and the search for those most similar to a query.

    A kind says what it keeps of images, what it makes of queries, and how it scores every image for some of them.
    Images without a feature are held, and never found.
    """

    kind: str
    version: ClassVar[int] = 1
    _entries: ClassVar[str]  # the array that has a row for each of what `IndexInfo` counts as entries
    _ready: ClassVar[int] = 64  # queries made ready at a time
    _together: ClassVar[int] = 1  # queries scored in one pass over the collection

    def __init__(self, dim: int, layout: Layout) -> None:
        self._dim = dim
        self._collection = Collection(layout)

    # What a kind brings along.

    @abstractmethod
    def _images(self, items: Sequence[LocalFeatures], threads: int) -> Sequence[Any]:
        """Return what is kept of images, as the layout takes it."""

    @abstractmethod
    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: Any) -> Sequence[Q]:
        """Return what queries, at least one, are searched with."""

    @abstractmethod
    def _scores(self, queries: Sequence[Q], threads: int, session: Any) -> Sequence[npt.NDArray[np.float32]]:
        """Return the score of every row for each query, (n,) each, through all segments; 0 for what is dead."""

    @abstractmethod
    def _header(self) -> dict[str, Any]:
        """Return what the manifest says beside the dimension."""

    def _session(self) -> Any:
        """Return what is made once for all queries, the collection being flushed."""

    def _batches(self, queries: Sequence[LocalFeatures], session: Any) -> Iterator[slice]:
        """Cut queries into runs that are made ready together."""
        for start in range(0, len(queries), self._ready):
            yield slice(start, min(start + self._ready, len(queries)))

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
        self._insert(new, self._images([batch[image_id] for image_id in new], threads))
        return new

    def _insert(self, ids: Sequence[str], payloads: Sequence[Any]) -> None:
        self._collection.add(dict(zip(ids, payloads, strict=True)))
        if ids:
            self._changed()

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images. They are found no more at once, and gone from disk after the next `save`.

        Raises
        ------
        UnknownIdError
            If one is not in the index; none is removed then.
        """
        self._collection.remove(ids)
        self._changed()

    def search(
        self,
        features: LocalFeatures,
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
    ) -> Found:
        """Return the images most similar to a query.

        Options leave out images and change no score: these are those of the whole collection.

        Parameters
        ----------
        features : LocalFeatures
            Of the query.
        top_k : int
            Images returned at most. Only images with a score above 0 are.
        among : iterable of str or None
            Return these images only; None: any.
        exclude : iterable of str
            Leave these images out, such as the query itself. Ids that are not in the index are ignored.
        min_score : float or None
            Leave out images with a lower score.

        Returns
        -------
        ids : list of str
            Best first, ties in the order of insertion.
        scores : (K,) float32

        Raises
        ------
        ConfigError
            If `top_k` is below 1, or `min_score` not a finite number.
        UnknownIdError
            If an id of `among` is not in the index.
        MismatchError
            If descriptors have another dimension than the index.
        FormatError
            If a memory-mapped segment turns out to be damaged.
        """
        top_k = check_query(features, top_k, self.dim)
        limits = Limits.of(self._collection, among, exclude, min_score)
        session, threads = self._session(), check_threads(None)
        return self._found(self._queries([features], threads, session), top_k, limits, threads, session)[0]

    def search_many(
        self,
        queries: Iterable[LocalFeatures],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Found]:
        """Search with many queries at once.

        Parameters
        ----------
        queries : iterable of LocalFeatures
        top_k, among, exclude, min_score
            As in `search`, for every query. Ids are looked up once.
        threads : int or None
            None: one a usable core.
        progress : callable or None
            Called with (queries done, queries), in the calling thread.

        Returns
        -------
        list of (ids, scores)
            What `search` returns for each query: the same bits with any number of threads.

        Raises
        ------
        ConfigError
            If `threads` is below 1. Otherwise as `search`; nothing is searched if one query does not fit.
        """
        several, top_k = check_queries(queries, top_k, self.dim)
        threads = check_threads(threads)
        limits = Limits.of(self._collection, among, exclude, min_score)
        out: list[Found] = []
        if not several:  # nothing to make a session for, which may take long
            return out
        session, step = self._session(), self._together
        for batch in self._batches(several, session):
            part = self._queries(several[batch], threads, session)
            groups = [part[i : i + step] for i in range(0, len(part), step)]

            def one(i: int, groups: Sequence[Sequence[Q]] = groups) -> list[Found]:
                return self._found(groups[i], top_k, limits, 1, session)

            def report(done: int, start: int = batch.start, count: int = len(part)) -> None:
                if progress is not None:
                    for i in range((done - 1) * step, min(done * step, count)):
                        progress(start + i + 1, len(several))

            for found in in_threads(one, len(groups), threads, report):
                out += found
        return out

    def __len__(self) -> int:
        return len(self._collection)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._collection

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""
        return list(self._collection)

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        self._collection.flush()
        segments = self._collection.segments
        return IndexInfo(
            kind=self.kind,
            images=len(self),
            removed=sum(segment.dead for segment in segments),
            entries=sum(len(segment.arrays[self._entries]) for segment in segments),
            bytes=sum(array.nbytes for segment in segments for array in segment.arrays.values()),
            segments=len(segments),
            dim=self.dim,
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
        self._write(directory, overwrite)

    def _write(
        self, directory: str | os.PathLike[str], overwrite: bool, attachment: Attachment | None = None
    ) -> None:
        header = {"dim": self.dim, **self._header()}
        self._collection.save(directory, header, overwrite=overwrite, attachment=attachment)

    @classmethod
    def _opened(
        cls,
        directory: str | os.PathLike[str],
        make: Callable[[Mapping[str, Any]], Self],
        check: bool | None,
        damaged: IfDamaged,
        kind: str | None = None,
    ) -> Self:
        """Open what was saved in `directory`; `make` returns the empty index that its header describes."""
        made: list[Self] = []

        def layout(header: Mapping[str, Any]) -> Layout:
            made.append(make(header))
            return made[-1]._collection.layout

        collection = Collection.load(
            directory, layout, kind or cls.kind, cls.version, check=check, damaged=damaged
        )
        made[-1]._collection = collection
        return made[-1]

    def _found(self, queries: Sequence[Q], top_k: int, limits: Limits, threads: int, session: Any) -> list[Found]:
        if not self._collection.segments:
            return [([], np.empty(0, np.float32)) for _ in queries]
        found = []
        for scores in self._scores(queries, threads, session):
            rows = limits.best(scores, top_k)
            found.append((self._collection.names_of(rows), scores[rows]))
        return found


def saved_options(
    header: Mapping[str, Any],
    source: str,
    given: Any,
    config: ConfigT | None,
    kind: type[ConfigT],
    built_with: Iterable[str],
    where: str,
) -> ConfigT:
    """Return the options to open an index with: those given, or those it was saved with.

    Parameters
    ----------
    header : mapping
        Of the manifest.
    source : "codebook" or "mixture"
    given : Codebook or Mixture
        Which the caller wants to use.
    config : Config or None
        Which the caller wants to use.
    kind : type
        Of the options.
    built_with : iterable of str
        Options that indexed images depend on.
    where : str
        Named in errors.

    Raises
    ------
    MismatchError
        If the index was built with another codebook or mixture, or with other such options.
    """
    if header[source] != given.hash:
        raise MismatchError(
            f"{where}: the index was built with {source} {header[source][:8]}, not with {given.hash[:8]}; "
            "give that one, or build the index again"
        )
    saved = parse_config(kind, header["config"], where=where)
    for name in built_with:
        if config is not None and getattr(config, name) != getattr(saved, name):
            raise MismatchError(
                f"{where}: the index was built with {name} = {getattr(saved, name)}, asked for "
                f"{getattr(config, name)}; build it again"
            )
    return saved if config is None else config
