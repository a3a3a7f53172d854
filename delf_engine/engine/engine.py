"""The engine: a feature store and an index behind one directory.

The feature store is the truth and is committed batch by batch; the index follows from it (`state`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from delf_engine.config import Profile
from delf_engine.engine.adding import add_features, add_images, named_images
from delf_engine.engine.directory import Words, check_parts, create_directory
from delf_engine.engine.manifest import Manifest
from delf_engine.engine.reindexing import reindex
from delf_engine.engine.results import AddReport, CheckReport, EngineInfo, RerankedBatch, SearchResult
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
from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource, image_suffixes
from delf_engine.index import AnyIndex, IndexKind
from delf_engine.reranking.candidates import Shortlist
from delf_engine.storage import FeatureStore
from delf_engine.support.threads import lock_across_forks
from delf_engine.verification import Calibration, Verification

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

Progress = Callable[[int, int], None]

_CONFIRMED = 10  # hits of one search, about 0.5 s

_refreshing = lock_across_forks()


class Engine:
    """Photographs in a directory on disk that can be searched and verified; see `create` and `open`.

    What it is made of is its `state`; the methods are functions of this. Those that change it raise `LockedError`
    if it was opened read-only, and `FormatError` if the disk cannot be written, for instance because it is full;
    what was committed before stays.
    """

    def __init__(self, state: EngineState, *, auto_refresh: bool = False) -> None:
        self._state = state
        self._auto_refresh = auto_refresh

    @property
    def state(self) -> EngineState:
        """What it answers from. A call takes it once, and has one snapshot from its beginning to its end."""
        if self._auto_refresh or self._state.is_inherited:
            self.refresh()
        return self._state

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] = "delf-r18",
        profile: str | os.PathLike[str] | Profile | None = None,
        index: IndexKind | None = None,
        codebook: Words | None = None,
        root: str | os.PathLike[str] | None = None,
        fine: bool = False,
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
        root : path or None
            Folder that ids of files start from; files elsewhere have their absolute path as id. None: the current
            one. Where the engine lies inside, they can be moved together.
        fine : bool
            Keep the fine features of images that are added, about 0.6 MB each, so that searches need not extract
            them from the photographs.

        Raises
        ------
        FormatError
            If the directory is not empty or cannot be made.
        CheckpointError, ConfigError
            If there is no such model, profile or codebook.
        """
        create_directory(
            Path(directory),
            model=model,
            profile=profile,
            index=index,
            codebook=codebook,
            root=root or os.getcwd(),
            fine=fine,
        )
        return cls.open(directory)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        readonly: bool = False,
        check: bool | None = None,
        auto_refresh: bool = False,
        root: str | os.PathLike[str] | None = None,
    ) -> Engine:
        """Open an engine that exists.

        Parameters
        ----------
        directory : path
        readonly : bool
            Readers need no lock and are never refused: as many as you like, in this process and others, beside a
            writer too. They see what was committed when they were opened, until `refresh`.
        check : bool or None
            Whether to compare the checksums of all files of the index, not their sizes only. None: where they
            are small (64 MiB). A damaged segment is named in a `DelfEngineWarning`, and its images are indexed
            again from the feature store: on disk, or for a reader in memory.
        auto_refresh : bool
            Let a reader `refresh` at the beginning of each call, as a service wants it.
        root : path or None
            Where the folder is now that ids of files start from, if it was moved without the engine; a writer
            keeps it. None: as kept.

        Raises
        ------
        FormatError
            If there is no engine, it is damaged or of another format version, or cannot be written.
        LockedError
            If another process, or another object of this one, has it open for writing.
        MismatchError
            If its parts do not belong together.
        """
        # Absolute: it is opened again after the process may have gone elsewhere.
        place = Path(os.path.abspath(directory))
        state = EngineState.open(place, readonly=readonly, check=check)
        with ExitStack() as undo:
            undo.callback(state.close)
            if root is not None:
                state.use_root(root)
            undo.pop_all()
        return cls(state, auto_refresh=auto_refresh)

    def refresh(self) -> bool:
        """Let a reader see what was last committed, all of it or nothing; return whether that is anything new.

        Takes microseconds when there is nothing new, otherwise about as long as the new images take to index,
        unless the writer has saved its index since. Calls of other threads end on what they began with. What was
        removed keeps its place in the file while a reader sees it: readers that stay open should refresh now and
        then.

        A forked child does this by itself on its first call, and is a reader from then on.
        """
        with _refreshing:
            before, self._state = self._state, self._state.newer()
            return self._state is not before

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        self._state.close()

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            "an open engine cannot be pickled; hand its path to the other process, and open it there: "
            f"Engine.open({str(self.directory)!r}, readonly=True)"
        )

    def __enter__(self) -> Engine:
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
        return (
            f"Engine({str(self.directory)!r}, {len(self)} images, {self.manifest.model_identity}, {self.index!r})"
        )

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
            store=state.store.info().to_dict(),
            index=state.index.info().to_dict(),
        )

    def check(self) -> CheckReport:
        """Compare everything on disk with its checksums; this reads all of it. Nothing is repaired: see `open`."""
        state = self.state
        return check_parts(state.directory, state.manifest, state.store)

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
        state = self.state
        found = search(state, query, options, box=box, expand=expand, graph=graph)
        if shown and not isinstance(query, LocalFeatures):
            _say_lost(state, [found])
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
        state = self.state
        found = search_many(state, queries, options, threads=threads, on_error=on_error, progress=progress)
        if confirm:
            _say_lost(state, found)
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
        state = self.state
        found = rerank(state, query, shortlist, options, box=box)
        if shown and not isinstance(query, LocalFeatures):
            _say_lost(state, [found])
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

    def add(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        ids: Sequence[str] | None = None,
        replace: bool = False,
        workers: int | None = None,
        batch: int | None = None,
        max_pixels: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Extract and add images; those whose id is there already are skipped, or replaced.

        Committed every 32 images: whatever interrupts it, what was committed stays, and calling it again
        with the same images goes on from there.

        Parameters
        ----------
        images : image, folder, or iterable of them
            Paths (folders are searched for images), bytes, PIL images or RGB arrays.
        ids : sequence of str or None
            One for each image, needed for images that are not files; None: the paths from the engine's root,
            however they are written: `x`, `./x` and `a/../x` are one image.
        replace : bool
            Extract images again whose id is there already; see `replace`. After an interruption all of them are
            extracted once more.
        workers, batch : int or None
            Decoding processes, and images that go through a GPU together; see `Extractor.extract_many`.
        max_pixels : int or None
            Larger images are refused, but for JPEG files that can be decoded smaller; None: as the profile says.
            For queries set ``engine.extractor.max_pixels``.
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
        ConfigError
            If `ids` does not fit `images`.
        """
        self.state.check_writable()
        named = named_images(images, ids, self.state.root)
        return add_images(
            self.state,
            named,
            replace=replace,
            progress=progress,
            workers=workers,
            batch=batch,
            max_pixels=max_pixels,
        )

    def replace(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        ids: Sequence[str] | None = None,
        workers: int | None = None,
        batch: int | None = None,
        max_pixels: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Extract images again that are there, such as photographs that were edited, and replace their features.

        They become the last in the order of insertion, in store and index alike. Committed every 32 images, each
        with its old features or its new ones whatever interrupts it.

        Parameters
        ----------
        images, ids, workers, batch, max_pixels, progress
            As in `add`, and so are the report and the errors.

        Returns
        -------
        AddReport
            An image that cannot be read is reported there and keeps its features.

        Raises
        ------
        UnknownIdError
            If one is not there; then nothing is replaced.
        """
        self.state.check_writable()
        named = list(named_images(images, ids, self.state.root))
        self.state.check_known([image_id for image_id, _ in named], "replaced")
        return add_images(
            self.state, named, replace=True, progress=progress, workers=workers, batch=batch, max_pixels=max_pixels
        )

    def add_features(self, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool = False) -> AddReport:
        """Add features that were extracted elsewhere by the same model, as (id, features).

        Parameters
        ----------
        items : iterable of (id, LocalFeatures)
        replace : bool
            Replace those whose id is there already, as `replace` does; of an id that occurs twice the last
            counts. Otherwise they are skipped.

        Raises
        ------
        MismatchError
            If descriptors have another dimension.
        """
        self.state.check_writable()
        return add_features(self.state, items, replace=replace)

    def remove(self, ids: str | Iterable[str]) -> None:
        """Remove images; nothing and an `UnknownIdError` if one is not there."""
        self.state.check_writable()
        names = [ids] if isinstance(ids, str) else ids
        wanted = list(dict.fromkeys(self.state.id_of(name) for name in names))
        self.state.check_known(wanted, "removed")
        self.state.remove(wanted)

    def use_calibration(self, calibration: Calibration | None) -> None:
        """Keep a calibration in the engine's directory, by which it judges from now on; None: the model's again.

        Readers take it over when they refresh. A `MismatchError` if it was fitted for other features or options.
        """
        self.state.check_writable()
        self.state.use_calibration(calibration)

    def compact(self) -> None:
        """Merge the segments of the index into one without removed images, on disk and at once.

        Searches give the same results, sooner where many images were removed. The file of the feature store keeps
        its size: it gives the space of removed images to new ones. Old and new segments take space until it is
        done.
        """
        self.state.check_writable()
        self.state.catch_up()
        self.index.compact()
        self.state.save()

    def reindex(
        self,
        index: IndexKind | None = None,
        *,
        codebook: Words | None = None,
        profile: str | os.PathLike[str] | Profile | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Make the index anew from the stored features: of another kind, with other words or other options.

        The old index is used until the new one is complete, also by other processes, and stays if this fails or is
        interrupted.

        Parameters
        ----------
        index : str or None
            One of `delf_engine.index.KINDS`; None: the kind that the engine has.
        codebook : Codebook, Mixture, path or None
            Its words. None: those that the engine has, or those that come with the checkpoint.
        profile : str, path, Profile or None
            Take the options of indexes from this profile; None: they stay.
        progress : callable or None
            Called with (images done, images).

        Raises
        ------
        ConfigError
            If there is no such kind, or words or options do not go with it.
        MismatchError
            If the words have another dimension.
        """
        self.state.check_writable()
        reindex(self.state, index, codebook, profile, progress)


def _say_lost(state: EngineState, results: Sequence[SearchResult]) -> None:
    """Warn if no hit has details since none of their photographs can be read where its id says."""
    # An engine that has read no photograph still has "auto": its ids may look like files, but are none.
    if state.root is None or state.manifest.profile.extraction.precision == "auto":
        return
    judged = {hit.id: hit.verification for found in results for hit in found.hits if hit.verification is not None}
    paths = [state.path_of(image_id) for image_id in judged]
    if any(found.fine is not None for found in judged.values()) or any(os.access(path, os.R_OK) for path in paths):
        return
    lost = [path for path in paths if Path(path).suffix.lower() in image_suffixes()]
    if lost:
        warnings.warn(
            f"{lost[0]} and the photographs of all other hits cannot be read, so details were not looked at; say "
            "where they are now by root=... of Engine.open, or --root",
            DelfEngineWarning,
            stacklevel=3,
        )
