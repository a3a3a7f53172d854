"""What an engine answers, whatever holds its images: on this disk, or elsewhere."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.engine.file_ids import file_of
from delf_engine.engine.manifest import Manifest
from delf_engine.engine.results import EngineInfo, RerankedBatch, SearchResult
from delf_engine.engine.searching import (
    CandidateKind,
    SearchOptions,
    StagedProgress,
    rerank,
    rerank_many,
    search,
    search_many,
)
from delf_engine.engine.state import EngineState, Query
from delf_engine.engine.views import verify_views
from delf_engine.errors import DelfEngineWarning, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource, image_suffixes
from delf_engine.index import AnyIndex
from delf_engine.reranking.candidates import Shortlist
from delf_engine.storage import FeatureStore
from delf_engine.verification import Calibration, Verification

if TYPE_CHECKING:
    from typing import Self

    from delf_engine.extraction import Extractor

Progress = Callable[[int, int], None]

_CONFIRMED = 10  # hits of one search, about 0.5 s


class EngineReader:
    """Photographs that can be searched and verified: an `Engine`, or the parts of one.

    What it is made of is its `state`; the methods are functions of this.
    """

    def __init__(self, state: EngineState) -> None:
        self._state = state

    @property
    def state(self) -> EngineState:
        """What it answers from. A call takes it once, and has one snapshot from its beginning to its end."""
        return self._state

    def close(self) -> None:
        """Let go of all that it holds. Closing twice is harmless."""
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self._state.directory

    @property
    def manifest(self) -> Manifest:
        """What its directory says of itself: model, kind of index, all options."""
        return self.state.manifest

    @property
    def store(self) -> FeatureStore:
        """The features of its images."""
        return self.state.store

    @property
    def index(self) -> AnyIndex:
        """What finds candidates."""
        return self.state.index

    @property
    def extractor(self) -> Extractor:
        """The extractor of the engine's model and profile, loaded on first use.

        A `CheckpointError` if the checkpoint is missing or damaged, a `MismatchError` if it is another one now.
        """
        return self.state.extractor

    @property
    def calibration(self) -> Calibration | None:
        """What gives verifications their probability; None if there is none that holds for the profile.

        The engine's own (`use_calibration`), else the model's, else that of fine evidence alone.
        """
        return self.state.calibration

    def get(self, image_id: str) -> LocalFeatures:
        """Return the features of an image; an `UnknownIdError` if it is not there."""
        state = self.state
        return state.store.get(state.id_of(image_id))

    def path_of(self, image: str | os.PathLike[str]) -> str:
        """Return the path of an image's file, from the engine's root; what is no id is a path already."""
        return self.state.path_of(image)

    def ids(self) -> list[str]:
        """Return all image ids, in the order of insertion."""
        return self.store.ids()

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, image_id: object) -> bool:
        state = self.state
        return isinstance(image_id, (str, os.PathLike)) and state.id_of(image_id) in state.store

    def __repr__(self) -> str:
        kind, model = type(self).__name__, self.manifest.model_identity
        return f"{kind}({str(self.directory)!r}, {len(self)} images, {model}, {self.index!r})"

    def info(self) -> EngineInfo:
        """Return what the engine holds, and in ``index["advice"]`` what would serve it better, if anything."""
        state = self.state
        return EngineInfo(
            directory=str(state.directory),
            model=state.manifest.model_identity,
            profile=state.manifest.profile.name,
            images=len(state.store),
            dim=state.manifest.dim,
            precision=state.manifest.profile.extraction.precision,
            store=state.store_info(),
            index=state.index.info().to_dict(),
        )

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
        confirm: int | None = None,
        candidates: CandidateKind | None = None,
    ) -> SearchResult:
        """Find the images that show what the query shows.

        Candidates come from the index; the best `top_n` are verified and ordered by the profile's ranking
        score, then by the candidate score; the rest keep their order behind them. The first hits get fine
        evidence, and share their places by the probability that follows from it.

        If none of the hits shows the same place, a query that is a photograph is turned by 90, 180 and 270
        degrees, too: `SearchResult.rotation`. Only then it takes up to four times as long.

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
            Seed of the sampling, where the profile's estimator draws samples.
        confirm : int or None
            So many hits get fine evidence, which decides their verdicts and order, whatever `top_k`; None: 10.
            Their fine features are stored (see `create`), or extracted from their photographs where these can be
            read; hits without keep their places.
        candidates : "asmk" or the engine's other kind of index, "global", "fused" or None
            What gathers candidates: the index, as None does; global descriptors; or both, their scores fused.

        Raises
        ------
        ImageError
            If the query cannot be read.
        UnknownIdError
            If an id of `among` is not in the engine.
        ConfigError
            If `top_k`, `top_n`, `min_score` or `confirm` is out of range, or the index is of another kind.
        MismatchError
            If the engine has no global descriptors, and they are asked for.
        """
        shown = _CONFIRMED if confirm is None else confirm
        options = SearchOptions(
            top_k, top_n, among, exclude, min_score, seed, confirm=shown, candidates=candidates
        )
        found = search(self.state, query, options, box=box, expand=expand, graph=graph)
        _say_lost(self._state, [found], shown and not isinstance(query, LocalFeatures))
        return found

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
        confirm: int = 0,
        candidates: CandidateKind | None = None,
        threads: int | None = None,
        workers: int | None = None,
        on_error: Callable[[ImageSource, ImageError], None] | None = None,
        progress: Progress | None = None,
    ) -> list[SearchResult]:
        """Search with many queries: the same results as of `search` one by one, sooner where there are many cores.

        Queries are not turned, and no hit gets fine evidence unless `confirm` says so.

        Parameters
        ----------
        queries : iterable of image or LocalFeatures
        top_k, top_n, among, exclude, min_score, seed, confirm, candidates
            As in `search`, for every query.
        threads : int or None
            That search the index; None: one a usable core.
        workers : int or None
            Threads or processes that verify; None: as `delf_engine.reranking.RerankOptions` says.
        on_error : callable or None
            Called with each query that cannot be read and its error; it has no result, the rest goes on. None: a
            `DelfEngineWarning` is issued for each.
        progress : callable or None
            Called with (queries done, queries) after every 256 queries and at the end.

        Raises
        ------
        As `search`, and `ConfigError` if `threads` or `workers` is below 1.
        """
        options = SearchOptions(
            top_k, top_n, among, exclude, min_score, seed, workers, confirm=confirm, candidates=candidates
        )
        found = search_many(self.state, queries, options, threads=threads, on_error=on_error, progress=progress)
        _say_lost(self._state, found, confirm)
        return found

    def rerank(
        self,
        query: Query,
        shortlist: Shortlist,
        *,
        top_k: int | None = None,
        box: Box | None = None,
        top_n: int | None = None,
        seed: int = 0,
        distances: bool = False,
        confirm: int | None = None,
    ) -> SearchResult:
        """Re-rank a shortlist of any other system by geometric verification.

        Parameters
        ----------
        query : image or LocalFeatures
        shortlist : sequence of id, or of (id, score)
            Best first. Ids that the engine does not hold are left out with a `DelfEngineWarning`.
        top_k : int or None
            Hits to return at most; None: all.
        box, top_n, seed, confirm
            As in `search`; a query that fails is turned as there.
        distances : bool
            Scores are distances, of which lower is better: they get the opposite sign.
        """
        shown = _CONFIRMED if confirm is None else confirm
        options = SearchOptions(top_k, top_n, seed=seed, distances=distances, confirm=shown)
        found = rerank(self.state, query, shortlist, options, box=box)
        _say_lost(self._state, [found], shown and not isinstance(query, LocalFeatures))
        return found

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
        distances: bool = False,
        confirm: int = 0,
        workers: int | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: StagedProgress | None = None,
        device: str = "cpu",
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
        distances, confirm, workers, device
            See `delf_engine.reranking.RerankOptions`. With `expand` the hits that it uses are confirmed anyway.
        checkpoint : path or None
            See `delf_engine.reranking.rerank_batch`. It is one of the first round.
        progress : callable or None
            Called with (what is done, pairs done, pairs).
        """
        state = self.state
        options = state.rerank_options(
            top_n=top_n,
            top_k=top_k,
            seconds=seconds,
            seed=seed,
            distances=distances,
            confirm=confirm,
            workers=workers,
            device=device,
        )
        return rerank_many(
            state, shortlists, options, expand=expand, graph=graph, checkpoint=checkpoint, progress=progress
        )

    def verify(self, a: Query, b: Query, *, seed: int = 0) -> Verification:
        """Verify whether two images show the same place, with details and turns, as `delf_engine.verify` does.

        Parameters
        ----------
        a, b : image, id or LocalFeatures
            An id of the engine stands for its image.
        seed : int
            As in `search`.
        """
        state = self.state
        views = state.view_of(a), state.view_of(b)
        return verify_views(*views, state.manifest.profile, calibration=state.calibration, seed=seed).verification


def _say_lost(state: EngineState, results: Sequence[SearchResult], wanted: int) -> None:
    """Warn if details were `wanted`, and no hit has any since none of their photographs is where its id says."""
    # An engine that has read no photograph still has "auto": its ids may look like files, but are none.
    if not wanted or state.root is None or state.manifest.profile.extraction.precision == "auto":
        return
    judged = {hit.id: hit.verification for found in results for hit in found.hits if hit.verification is not None}
    paths = [file_of(image_id, state.root, state.directory) for image_id in judged]
    if any(found.fine is not None for found in judged.values()) or any(os.access(path, os.R_OK) for path in paths):
        return
    if lost := [path for path in paths if Path(path).suffix.lower() in image_suffixes()]:
        warnings.warn(
            f"{lost[0]} and the photographs of all other hits cannot be read, so details were not looked at; say "
            "where they are now by root=... of Engine.open, or --root",
            DelfEngineWarning,
            stacklevel=3,
        )
