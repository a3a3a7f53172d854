"""The engine: a feature store and an index behind one directory.

The feature store is the truth and is committed batch by batch; the index follows from it. Images are added to the
store first and removed from the index first, so after a crash at any moment the index lacks images at worst, and
they are put back from the store on opening.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from delf_engine.config import Profile
from delf_engine.engine.adding import add_images
from delf_engine.engine.creating import create_directory
from delf_engine.engine.manifest import Manifest, read_manifest
from delf_engine.engine.pairs import rank_shortlist
from delf_engine.engine.parts import (
    FEATURES,
    INDEX,
    load_index,
    named_images,
)
from delf_engine.engine.results import AddReport, EngineInfo, SearchResult
from delf_engine.engine.searching import check_counts, limits, query_name, search_many
from delf_engine.errors import ConfigError, ImageError, LockedError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.index import AsmkIndex, Codebook, KdTreeIndex
from delf_engine.model import read_checkpoint_info
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification, verify_features

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

__all__ = ["Engine"]

Progress = Callable[[int, int], None]
Query: TypeAlias = ImageSource | LocalFeatures


class Engine:
    """Photographs in a directory on disk that can be searched and verified; see `create` and `open`."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        store: FeatureStore,
        index: AsmkIndex | KdTreeIndex,
        readonly: bool,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.store = store
        self.index = index
        self.readonly = readonly
        self._extractor: Extractor | None = None
        self._follow_store()

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] = "delf-r18",
        profile: str | os.PathLike[str] | Profile | None = None,
        index: Literal["asmk", "kdtree"] | None = None,
        codebook: Codebook | str | os.PathLike[str] | None = None,
    ) -> Engine:
        """Make an empty engine and open it for writing.

        Parameters
        ----------
        directory : path
            Must not exist, or be empty.
        model : str or path
            Checkpoint, by name or path.
        profile : str, path, Profile or None
            Options; None: those that the checkpoint is meant for.
        index : "asmk", "kdtree" or None
            How candidates are gathered; None: as the profile says.
        codebook : Codebook, path or None
            Visual words of an ASMK index; None: those that come with the checkpoint.

        Raises
        ------
        FormatError
            If the directory is not empty or cannot be made.
        CheckpointError, ConfigError
            If there is no such model, profile or codebook.
        """
        create_directory(Path(directory), model=model, profile=profile, index=index, codebook=codebook)
        return cls.open(directory)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, readonly: bool = False) -> Engine:
        """Open an engine that exists.

        Parameters
        ----------
        directory : path
        readonly : bool
            Readers need no lock: they see what was last committed, also while another process adds.

        Raises
        ------
        FormatError
            If there is no engine, or it is damaged or of another format version.
        LockedError
            If another process is writing to it, or this process has it open.
        MismatchError
            If its parts do not belong together.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        with ExitStack() as undo:
            store = undo.enter_context(FeatureStore.open(directory / FEATURES, readonly=readonly))
            if store.model != manifest.model_identity or store.dim != manifest.dim:
                raise MismatchError(
                    f"{directory}: the store holds {store.dim}-D features of {store.model}, the engine is for "
                    f"{manifest.dim}-D features of {manifest.model_identity}"
                )
            engine = cls(directory, manifest, store, load_index(directory, manifest), readonly)
            undo.pop_all()
        return engine

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        self.store.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def extractor(self) -> Extractor:
        """The extractor of the engine's model and profile, loaded on first use.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing or damaged.
        MismatchError
            If it is not the one that the engine was made with.
        """
        if self._extractor is None:
            from delf_engine.extraction import Extractor

            found = read_checkpoint_info(self.manifest.model).identity
            if found != self.manifest.model_identity:
                raise MismatchError(
                    f"{self.directory}: made with model {self.manifest.model_identity}, but {self.manifest.model} "
                    f"is now {found}; its features do not fit. Use the old checkpoint or make a new engine"
                )
            self._extractor = Extractor.from_pretrained(
                self.manifest.model, config=self.manifest.profile.extraction
            )
        return self._extractor

    def add(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        ids: Sequence[str] | None = None,
        workers: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Extract and add images; those whose id is there already are skipped.

        Committed every 32 images: whatever interrupts it, what was committed stays, and calling it again
        with the same images goes on from there.

        Parameters
        ----------
        images : image, folder, or iterable of them
            Paths (folders are searched for images), bytes, PIL images or RGB arrays.
        ids : sequence of str or None
            One for each image, needed for images that are not files; None: the paths as given.
        workers, batch : int or None
            Decoding processes, and images that go through the network together; see `Extractor.extract_many`.
        progress : callable or None
            Called with (done, total).

        Returns
        -------
        AddReport
            An image that cannot be read is reported there, and the rest goes on.

        Raises
        ------
        DataError
            If a folder holds no image.
        LockedError
            If the engine was opened read-only.
        ConfigError
            If `ids` does not fit `images`.
        """
        self._writable()
        return add_images(self, named_images(images, ids), workers=workers, batch=batch, progress=progress)

    def add_features(self, items: Iterable[tuple[str, LocalFeatures]]) -> AddReport:
        """Add features that were extracted elsewhere by the same model, as (id, features).

        Raises
        ------
        MismatchError
            If descriptors have another dimension.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        items = list(items)
        added = self.commit(items)
        self.save()
        fresh = set(added)
        return AddReport(added=added, skipped=[image_id for image_id, _ in items if image_id not in fresh])

    def commit(self, items: Iterable[tuple[str, LocalFeatures]]) -> list[str]:
        """Write features in one transaction and index them; return the ids that were new.

        The index is on disk after the next `save`; `add` and `add_features` do both.
        """
        written = self.store.put_many(items)
        # As stored, not as given: an index rebuilt from the store must be the same to the bit.
        self.index.add(written, self.store.get_many(written))
        return written

    def save(self) -> None:
        """Write what is new in the index."""
        self.index.save(self.directory / INDEX)

    def remove(self, ids: str | Iterable[str]) -> None:
        """Remove images.

        Raises
        ------
        UnknownIdError
            If one is not there; then nothing is removed.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        wanted = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
        missing = [image_id for image_id in wanted if image_id not in self.store]
        if missing:
            raise UnknownIdError(
                f"{self.directory}: no image {missing[0]!r}" + _more(missing) + "; nothing removed"
            )
        self.index.remove(wanted)
        self.save()
        self.store.remove(wanted)

    def search(
        self,
        query: Query,
        *,
        top_k: int = 10,
        box: Box | None = None,
        top_n: int | None = None,
        among: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] = (),
        min_score: float | None = None,
        seed: int = 0,
    ) -> SearchResult:
        """Find the images that show what the query shows.

        Candidates come from the index; the best `top_n` are verified and ordered by the profile's ranking
        score, then by the candidate score; the rest keep their order behind them.

        Parameters
        ----------
        query : image or LocalFeatures
        top_k : int
            Hits to return at most.
        box : x0, y0, x1, y1 or None
            Region of interest of the query image, in pixels.
        top_n : int or None
            Candidates to verify; None: as the profile says (100); 0: none.
        among : id, iterable of str or None
            Search among these images only; None: among all.
        exclude : id or iterable of str
            Leave these images out, such as the query itself. Ids that are not in the engine are ignored.
        min_score : float or None
            Leave out candidates with a lower score in the index, before any is verified.
        seed : int
            Of RANSAC.

        Raises
        ------
        ImageError
            If the query cannot be read.
        UnknownIdError
            If an id of `among` is not in the engine.
        ConfigError
            If `top_k`, `top_n` or `min_score` is out of range.
        """
        verified = self.manifest.profile.reranking.top_n if top_n is None else top_n
        check_counts(top_k, verified)
        features = self.features_of(query, box)
        found = self.index.search(features, max(top_k, verified), **limits(among, exclude, min_score))
        shortlist = list(zip(found[0], found[1].tolist(), strict=True))
        return self._ranked(query_name(query), features, shortlist, top_k, verified, seed)

    def search_many(
        self,
        queries: Iterable[Query],
        *,
        top_k: int = 10,
        top_n: int | None = None,
        among: str | Iterable[str] | None = None,
        exclude: str | Iterable[str] = (),
        min_score: float | None = None,
        seed: int = 0,
        threads: int | None = None,
        workers: int | None = None,
        on_error: Callable[[ImageSource, ImageError], None] | None = None,
        progress: Progress | None = None,
    ) -> list[SearchResult]:
        """Search with many queries: the same results as of `search` one by one, sooner where there are many cores.

        Parameters
        ----------
        queries : iterable of image or LocalFeatures
        top_k, top_n, among, exclude, min_score, seed
            As in `search`, for every query.
        threads : int or None
            That search the index; None: one a usable core.
        workers : int or None
            Processes that verify; None: as `delf_engine.reranking.rerank_batch` chooses.
        on_error : callable or None
            Called with each query that cannot be read and its error; it has no result, the rest goes on. None: a
            `DelfEngineWarning` is issued for each.
        progress : callable or None
            Called with (queries done, queries) after every 256 queries and at the end.

        Raises
        ------
        As `search`, and `ConfigError` if `threads` or `workers` is below 1.
        """
        return search_many(
            self,
            queries,
            top_k=top_k,
            top_n=top_n,
            seed=seed,
            limited=limits(among, exclude, min_score),
            threads=threads,
            workers=workers,
            on_error=on_error,
            progress=progress,
        )

    def rerank(
        self,
        query: Query,
        shortlist: Sequence[str] | Sequence[tuple[str, float]],
        *,
        top_k: int | None = None,
        box: Box | None = None,
        top_n: int | None = None,
        seed: int = 0,
    ) -> SearchResult:
        """Re-rank a shortlist of any other system by geometric verification.

        Parameters
        ----------
        query : image or LocalFeatures
        shortlist : sequence of id, or of (id, score)
            Best first. Ids that the engine does not hold are left out with a `DelfEngineWarning`.
        top_k : int or None
            Hits to return at most; None: all.
        box, top_n, seed
            As in `search`.
        """
        verified = self.manifest.profile.reranking.top_n if top_n is None else top_n
        check_counts(top_k, verified)
        return self._ranked(query_name(query), self.features_of(query, box), shortlist, top_k, verified, seed)

    def verify(self, a: Query, b: Query, *, seed: int = 0) -> Verification:
        """Verify whether two images show the same place; an id of the engine stands for its image."""
        profile = self.manifest.profile
        return verify_features(
            self.features_of(a),
            self.features_of(b),
            config=profile.verification,
            exponent=profile.ranking.exponent,
            seed=seed,
        )

    def get(self, image_id: str) -> LocalFeatures:
        """Return the features of an image.

        Raises
        ------
        UnknownIdError
            If it is not there.
        """
        return self.store.get(image_id)

    def ids(self) -> list[str]:
        """Return all image ids, in the order of insertion."""
        return self.store.ids()

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.store

    def info(self) -> EngineInfo:
        """Return what the engine holds."""
        return EngineInfo(
            directory=str(self.directory),
            model=self.manifest.model_identity,
            profile=self.manifest.profile.name,
            images=len(self),
            dim=self.manifest.dim,
            precision=self.manifest.profile.extraction.precision,
            store=self.store.info().to_dict(),
            index=self.index.info().to_dict(),
        )

    def __repr__(self) -> str:
        return (
            f"Engine({str(self.directory)!r}, {len(self)} images, {self.manifest.model_identity}, {self.index!r})"
        )

    def _follow_store(self) -> None:
        """Bring the index to what the store holds; they differ after a crash, or while another process adds."""
        stored = self.store.ids()
        held = set(stored)
        self.index.remove([image_id for image_id in self.index.ids() if image_id not in held])
        missing = [image_id for image_id in stored if image_id not in self.index]
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            self.index.add(part, self.store.get_many(part))
        if missing and not self.readonly:
            self.save()

    def features_of(self, query: Query, box: Box | None = None) -> LocalFeatures:
        """Return the features of a query: as given, those of an id of the engine, or extracted from an image."""
        if isinstance(query, LocalFeatures):
            if box is not None:
                raise ConfigError("a box goes with an image; features were given")
            return query
        if box is None and isinstance(query, str) and query in self.store:
            return self.store.get(query)
        return self.extractor(query, box=box)

    def _ranked(
        self,
        name: str,
        features: LocalFeatures,
        shortlist: Sequence[Any],
        top_k: int | None,
        top_n: int,
        seed: int,
    ) -> SearchResult:
        hits = rank_shortlist(
            features,
            shortlist,
            self.store,
            top_n=top_n,
            verification=self.manifest.profile.verification,
            ranking=self.manifest.profile.ranking,
            seed=seed,
        )
        return SearchResult(name, tuple(hits[:top_k]))

    def _writable(self) -> None:
        if self.readonly:
            raise LockedError(f"{self.directory}: opened read-only; open it without readonly=True to change it")


def _more(ids: Sequence[str]) -> str:
    return f" and {len(ids) - 1} more" if len(ids) > 1 else ""
