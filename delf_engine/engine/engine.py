"""The engine: a feature store and an index behind one directory.

The feature store is the truth and is committed batch by batch; the index follows from it (`following`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from delf_engine.config import Profile
from delf_engine.engine.base import Query
from delf_engine.engine.batch import RerankedBatch, expanded, rerank_many, through_graph
from delf_engine.engine.changing import ChangingEngine, Progress
from delf_engine.engine.checking import check_parts
from delf_engine.engine.creating import create_directory
from delf_engine.engine.manifest import read_manifest
from delf_engine.engine.pairs import rank_shortlist
from delf_engine.engine.parts import FEATURES, open_index
from delf_engine.engine.reindexing import tidy
from delf_engine.engine.results import CheckReport, EngineInfo, SearchResult
from delf_engine.engine.searching import check_counts, limits, query_name, search_many
from delf_engine.errors import ImageError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.index import IndexKind, Vocabulary
from delf_engine.reranking import RankedCandidate
from delf_engine.reranking.candidates import Shortlist
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification, verify_features

__all__ = ["Engine"]


class Engine(ChangingEngine):
    """Photographs in a directory on disk that can be searched and verified; see `create` and `open`."""

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] = "delf-r18",
        profile: str | os.PathLike[str] | Profile | None = None,
        index: IndexKind | None = None,
        codebook: Vocabulary | str | os.PathLike[str] | None = None,
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
        index : "asmk", "kdtree", "ivf", "bow", "vlad", "fisher" or None
            How candidates are gathered; None: as the profile says.
        codebook : Codebook, Mixture, path or None
            Visual words of the index; None: those that come with the checkpoint, which are too many for "vlad". A
            mixture for "fisher", nothing for "kdtree".

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
    def open(
        cls, directory: str | os.PathLike[str], *, readonly: bool = False, check: bool | None = None
    ) -> Engine:
        """Open an engine that exists.

        Parameters
        ----------
        directory : path
        readonly : bool
            Readers need no lock: they see what was last committed, also while another process adds.
        check : bool or None
            Whether to compare the checksums of all files of the index, not their sizes only. None: where they
            are small (64 MiB). A damaged segment is named in a `DelfEngineWarning`, and its images are indexed
            again from the feature store: on disk, or for a reader in memory.

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
            if not readonly:  # others have no way to change it from here on
                manifest = read_manifest(directory)
                tidy(directory, manifest)
            manifest, index = open_index(directory, manifest, check)
            engine = cls(directory, manifest, store, index, readonly)
            undo.pop_all()
        return engine

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        expand: bool = False,
        graph: bool = False,
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
        expand : bool
            Search a second time, with the features of the images that were verified as the same place beside the
            query's own (Chum et al., Total Recall, 2007): about twice the time. The verifications of the result
            are then those of `SearchResult.features`.
        graph : bool
            Verify the best hits with each other, too, and let images that the query has little in common with be
            found through them.
        seed : int
            Of the sampling, where the profile's estimator draws samples.

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
        limited = limits(among, exclude, min_score)

        def ranked(query: LocalFeatures) -> list[RankedCandidate]:
            ids, scores = self.index.search(query, max(top_k, verified), **limited)
            return self._ranked(query, list(zip(ids, scores.tolist(), strict=True)), verified, seed)

        hits = ranked(features)
        if expand:
            features = expanded(self, features, hits, box)
            hits = ranked(features)
        if graph:
            hits = through_graph(self, {"query": hits}, seed=seed)["query"]
        return SearchResult(query_name(query), tuple(hits[:top_k]), features)

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
            Threads or processes that verify; None: as `delf_engine.reranking.rerank_batch` chooses.
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
        features = self.features_of(query, box)
        return SearchResult(
            query_name(query), tuple(self._ranked(features, shortlist, verified, seed)[:top_k]), features
        )

    def rerank_many(
        self,
        shortlists: Mapping[str, Shortlist],
        *,
        top_n: int | None = None,
        top_k: int | None = None,
        seconds: float | None = None,
        expand: bool = False,
        graph: bool = False,
        seed: int = 0,
        workers: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> RerankedBatch:
        """Re-rank the shortlists of many queries.

        Parameters
        ----------
        shortlists : mapping of query to sequence of id or of (id, score)
            Queries are ids of the engine, or paths of photographs; one that cannot be read is in the result's
            `failed`, and the rest goes on. Candidates are ids of the engine.
        top_n, top_k, seconds
            See `RerankingConfig`; None: as the profile says.
        expand, graph, seed
            As in `search`, but the same candidates are verified again, not others searched.
        workers, checkpoint
            See `delf_engine.reranking.rerank_batch`. The checkpoint is one of the first round.
        progress : callable or None
            Called with (what is done, pairs done, pairs).
        """
        return rerank_many(
            self,
            shortlists,
            top_n=top_n,
            top_k=top_k,
            seconds=seconds,
            expand=expand,
            graph=graph,
            seed=seed,
            workers=workers,
            checkpoint=checkpoint,
            progress=progress,
        )

    def verify(self, a: Query, b: Query, *, seed: int = 0) -> Verification:
        """Verify whether two images show the same place; an id of the engine stands for its image."""
        profile = self.manifest.profile
        return verify_features(
            self.features_of(a),
            self.features_of(b),
            config=profile.verification,
            exponent=profile.ranking.exponent,
            calibration=self.calibration,
            seed=seed,
        )

    def check(self) -> CheckReport:
        """Compare everything on disk with its checksums; this reads all of it. Nothing is repaired: see `open`."""
        return check_parts(self.directory, self.manifest, self.store)

    def info(self) -> EngineInfo:
        """Return what the engine holds, and in ``index["advice"]`` what would serve it better, if anything."""
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

    def _ranked(
        self, features: LocalFeatures, shortlist: Sequence[Any], top_n: int, seed: int
    ) -> list[RankedCandidate]:
        return rank_shortlist(
            features,
            shortlist,
            self.store,
            top_n=top_n,
            verification=self.manifest.profile.verification,
            ranking=self.manifest.profile.ranking,
            seed=seed,
            calibration=self.calibration,
        )
