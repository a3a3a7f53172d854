"""`CandidateIndex`: what all kinds of index do, whatever they keep of an image and however they search it."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from delf_engine.config import Config, Profile, parse_config
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.index.contract import IndexInfo, check_batch, check_ids
from delf_engine.index.searching import Q, SearchedCollection
from delf_engine.index.segments import disk
from delf_engine.index.segments.collection import Collection, IfDamaged
from delf_engine.index.segments.segment import Layout, Segment
from delf_engine.index.vectors import WithVectors, kept_vector
from delf_engine.support.threads import check_threads

if TYPE_CHECKING:
    from typing import Self

ConfigT = TypeVar("ConfigT", bound=Config)


class CandidateIndex(SearchedCollection[Q], Generic[Q, ConfigT]):
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

    def __init__(self, dim: int, layout: Layout, encoder: Encoder | None, config: ConfigT) -> None:
        self.config = config
        self._dim = dim
        self.encoder = encoder
        self._collection = Collection(self.kind, layout)
        self.vectors = 0  # components of the global descriptors that are kept; 0: none are

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
    def _entries(self, segment: Segment) -> int:
        """Return how many of what `IndexInfo` counts as entries a segment holds."""

    def _header(self) -> dict[str, Any]:
        """Return what the manifest says of how the index was made."""
        encoder = None if self.encoder is None else self.encoder.hash
        config = self.config.model_dump(mode="json")
        return {"dim": self.dim, "encoder": encoder, "config": config, "vectors": self.vectors}

    def _changed(self) -> None:
        """Forget what was derived from the images that were there, and from their order."""

    # What all of them do.

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
