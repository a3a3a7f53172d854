"""Indexes of images that are encoded by a vocabulary, a codebook or a mixture, with regions or without."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from delf_engine.config import AsmkConfig, Config, VladConfig, load_profile, parse_config
from delf_engine.errors import MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import check_regions
from delf_engine.index.base import CandidateIndex, Q
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import IfDamaged
from delf_engine.index.contract import check_batch
from delf_engine.index.mixture import Mixture
from delf_engine.index.segments import Layout
from delf_engine.regions import Regions, rigid_grid
from delf_engine.support.threads import check_threads

if TYPE_CHECKING:
    from typing import Self

__all__ = ["RegionalIndex", "VocabularyIndex"]

V = TypeVar("V", Codebook, Mixture)
C = TypeVar("C", bound=Config)
R = TypeVar("R", AsmkConfig, VladConfig)


class VocabularyIndex(CandidateIndex[Q], Generic[Q, V, C]):
    """An index of images that are encoded by a codebook or a mixture.

    Parameters
    ----------
    vocabulary : Codebook or Mixture
    config : Config, optional
        By default that of the ``default`` profile.
    """

    _source: ClassVar[Literal["codebook", "mixture"]] = "codebook"
    _options: ClassVar[type[Config]]
    _built_with: ClassVar[Collection[str]]  # options that cannot change later

    def __init__(self, vocabulary: V, config: C | None = None) -> None:
        self._vocabulary: V = vocabulary
        self.config: C = getattr(load_profile(), self.kind) if config is None else config
        super().__init__(vocabulary.dim, self._layout(vocabulary, self.config))

    @classmethod
    @abstractmethod
    def _layout(cls, vocabulary: V, config: C) -> Layout:
        """Return how images are kept."""

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        vocabulary: V,
        config: C | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> Self:
        """Open an index that was saved. Its arrays are memory-mapped: this takes milliseconds at any size.

        Parameters
        ----------
        directory : path
        vocabulary : Codebook or Mixture
            The one it was built with.
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
            If it was built with another vocabulary, or with other options for indexed images than `config` has.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def make(header: Mapping[str, Any]) -> Self:
            if header[cls._source] != vocabulary.hash:
                raise MismatchError(
                    f"{directory}: the index was built with {cls._source} {header[cls._source][:8]}, not with "
                    f"{vocabulary.hash[:8]}; give that one, or build the index again"
                )
            saved = parse_config(cls._options, header["config"], where=str(directory))
            for name in cls._built_with:
                if config is not None and getattr(config, name) != getattr(saved, name):
                    raise MismatchError(
                        f"{directory}: the index was built with {name} = {getattr(saved, name)}, asked for "
                        f"{getattr(config, name)}; build it again"
                    )
            return cls(vocabulary, saved if config is None else config)  # type: ignore[arg-type]

        return cls._opened(directory, make, check, damaged)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {self._vocabulary!r})"

    def _header(self) -> dict[str, Any]:
        return {self._source: self._vocabulary.hash, "config": self.config.model_dump(mode="json")}


class RegionalIndex(VocabularyIndex[Q, Codebook, R]):
    """An index of aggregated residuals, to which regions of an image may add theirs."""

    def add(
        self,
        ids: Sequence[str],
        features: Sequence[LocalFeatures],
        regions: Sequence[Regions | None] | None = None,
        *,
        threads: int | None = None,
    ) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Until then they are held in memory: save now and then while adding many.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.
        regions : sequence of Regions or None, optional
            One for each id, None for an image by itself. Not given at all: as the options say, by default none.
            They are not kept: an index that is built again needs them again.
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
            If regions are no `Regions`, or name descriptors that their image does not have.
        MismatchError
            If descriptors have another dimension than the codebook.
        """
        threads = check_threads(threads)
        ids, features = list(ids) if not isinstance(ids, str) else ids, list(features)
        batch = check_batch(ids, features, self.dim)
        places = None if regions is None else check_regions(ids, features, regions)
        new = [image_id for image_id in batch if image_id not in self]
        items = [batch[image_id] for image_id in new]
        chosen: list[Regions | None] | None = None
        if places is not None:
            chosen = [places[image_id] for image_id in new]
        elif self.config.regions == "grid":
            chosen = [Regions.of(item, rigid_grid(item.image_size)) for item in items]
        self._insert(new, self._images(items, threads, chosen))
        return new

    @abstractmethod
    def _images(
        self,
        items: Sequence[LocalFeatures],
        threads: int,
        regions: Sequence[Regions | None] | None = None,
    ) -> Sequence[Any]:
        """Return what is kept of images, of which some may have regions."""
