"""The engine: a feature store and an index behind one directory.

The feature store is the truth and is committed batch by batch; the index follows from it (`state`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from delf_engine.config import Profile
from delf_engine.engine.adding import add_features, add_images, named_images
from delf_engine.engine.directory import Words, check_parts, create_directory
from delf_engine.engine.reading import EngineReader, Progress
from delf_engine.engine.reindexing import reindex
from delf_engine.engine.results import AddReport, CheckReport
from delf_engine.engine.state import EngineState
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource
from delf_engine.index import IndexKind
from delf_engine.support.threads import lock_across_forks
from delf_engine.verification import Calibration

_refreshing = lock_across_forks()


class Engine(EngineReader):
    """Photographs in a directory on disk that can be searched and verified; see `create` and `open`.

    Methods that change it raise `LockedError` if it was opened read-only, and `FormatError` if the disk cannot be
    written, for instance because it is full; what was committed before stays.
    """

    def __init__(self, state: EngineState, *, auto_refresh: bool = False) -> None:
        super().__init__(state)
        self._auto_refresh = auto_refresh

    @property
    def state(self) -> EngineState:
        """What it answers from; see `EngineReader.state`."""
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

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            "an open engine cannot be pickled; hand its path to the other process, and open it there: "
            f"Engine.open({str(self.directory)!r}, readonly=True)"
        )

    def check(self) -> CheckReport:
        """Compare everything on disk with its checksums; this reads all of it. Nothing is repaired: see `open`."""
        state = self.state
        return check_parts(state.directory, state.manifest, state.store)

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
