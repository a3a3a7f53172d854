"""Finding copies: exact ones by their bytes, near ones by signatures, parts of others by search and details."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.copies.pixels import HALF, LEAST, Agreement, agreement, corners_of, laid_over, read_grey
from delf_engine.copies.result import Copies, Copy, Outline, Pair, pair_of, read_dismissed
from delf_engine.copies.signature import VIEWS, distances, grid_of, levels, turned_grids
from delf_engine.engine import Engine
from delf_engine.engine.working import working_engine
from delf_engine.errors import ConfigError, DataError, ImageError
from delf_engine.images import find_images
from delf_engine.reranking import RankedCandidate, rerank_batch
from delf_engine.reranking.confirming import confirm_rankings
from delf_engine.support.files import file_sha256
from delf_engine.support.threads import check_threads, in_threads
from delf_engine.verification.fine import PLANAR_BY_CHANCE

Item = TypeVar("Item")
Found = TypeVar("Found")
Floats: TypeAlias = npt.NDArray[np.floating]
Paths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
#: Called with what is being done, how much of it is done, and how much there is.
Progress: TypeAlias = Callable[[str, int, int], None]

_ALIKE = 0.5  # largest distance of signatures that is worth a look at the pixels
_LOOKS = 5  # at the nearest by signature
# Details are looked at of the best so many of each photograph, from so many inliers on.
_DETAILED, _INLIERS = 16, 8
_SAME = 0.93  # least correlation of the pixels of a copy
_WHOLE = 0.9  # share of a photograph's content that counts as all of it
_LARGER = 1.1  # pixels of a part over those in its whole, from which on it is embedded
_OTHERS = 3  # near copies of a leader that are looked at in its place
_BLOCK = 64  # photographs whose signatures are compared at once
_QUERIES = 256  # searched for at once
_GREYS = 64  # photographs in memory, 1 MB each at most


@dataclass(frozen=True, eq=False)
class _Photo:
    """A photograph that can be read: the hash of its bytes, its size, and the grid of its signature."""

    path: str
    digest: str
    size: tuple[int, int]
    grid: npt.NDArray[np.float32]


def find_copies(
    photos: Paths,
    *,
    within: Paths | None = None,
    engine: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    per_photo: int = 60,
    dismissed: str | os.PathLike[str] | None = None,
    max_pixels: int | None = None,
    workers: int | None = None,
    progress: Progress = lambda *_: None,
) -> Copies:
    """Find copies among photographs: exact, near, cropped, framed, edited, turned and embedded ones.

    Of photographs with the same bytes one is looked at. Those that look alike by their signatures, turned and
    mirrored too, are laid over each other, and the largest of a group of near copies stands for it from there on.
    It is searched for among the others by its local features, and laid over those with which details agree. A pair
    is a copy if its pixels agree nearly everywhere: those of another photograph of the place do not.

    Parameters
    ----------
    photos : path or sequence of path
        Image files and folders; of a file and links to it one counts.
    within : path or sequence of path, or None
        Look for `photos`, such as a test set, in these, such as its training set, and not among themselves; other
        photographs of the same place are reported then, too.
    engine : path or None
        Directory of an engine to keep: what an earlier, interrupted call or `Engine.add` has extracted is taken
        from there. None: a temporary one.
    model : str, path or None
        Checkpoint; None: that of the engine if there is one, else the default.
    per_photo : int
        Candidates of the search that are verified for each photograph.
    dismissed : path or None
        File of pairs that are no copies: see `dismiss`.
    max_pixels, progress
        See `Engine.add` and `Progress`.
    workers : int or None
        Threads; None: one a usable core. The result has the same bits with any number.

    Returns
    -------
    Copies
        Photographs that cannot be read are named there, and the rest goes on.

    Raises
    ------
    DataError
        If a path does not exist, a folder holds no image, or a file is in both sets.
    ConfigError
        If `per_photo` or `workers` is below 1.
    FormatError, MismatchError, CheckpointError, LockedError
        As `read_dismissed`, `Engine.create` and `Engine.open`.
    """
    if per_photo < 1:
        raise ConfigError(f"per_photo must be at least 1, got {per_photo}")
    threads = check_threads(workers)
    unlike = set() if dismissed is None else read_dismissed(dismissed)
    asked, searched = _images(photos), [] if within is None else _images(within)
    both = {os.path.abspath(name) for name in searched} & {os.path.abspath(name) for name in asked}
    if both:
        raise DataError(f"{min(both)}: one of {len(both)} files that are in both sets; give each to one of them")
    if engine is not None or model is not None:
        with working_engine(engine, model, fine=True):
            pass  # a wrong one is better said before the work
    job = _Job(unlike, max_pixels, threads, progress)
    known, failed = job.read([*searched, *asked])
    tested = set(asked) if within is not None else set()
    # The photographs to search in go first: what is like one of them is grouped with it. Then the largest.
    order = sorted(known, key=lambda photo: (photo.path in tested, -photo.size[0] * photo.size[1]))
    copies, leaders = job.grouped(order, tested)
    leaders = [photo for photo in leaders if min(photo.size) >= LEAST]
    sides = {photo.path in tested for photo in leaders}
    if len(leaders) > 1 and (within is None or len(sides) == 2):
        with working_engine(engine, model, fine=True) as opened:
            found, unread = job.parts(opened, [photo.path for photo in leaders], tested, per_photo)
        seen = {pair_of(copy.a, copy.b) for copy in copies}
        copies += [copy for copy in found if pair_of(copy.a, copy.b) not in seen]
        failed += unread
    if within is not None:
        copies = [copy for copy in copies if (copy.a in tested) != (copy.b in tested)]
    place = {photo.path: number for number, photo in enumerate(known)}
    copies = [copy for copy in copies if pair_of(copy.a, copy.b) not in unlike]
    copies.sort(key=lambda copy: (place[copy.a], place[copy.b]))
    sizes = {photo.path: photo.size for photo in known}
    return Copies(sizes, tuple(copies), tuple(failed), tuple(name for name in sizes if name in tested))


class _Job:
    """The stages of a search, and what they share."""

    def __init__(self, unlike: Set[Pair], max_pixels: int | None, threads: int, progress: Progress) -> None:
        self._unlike, self._max_pixels, self._threads, self._progress = unlike, max_pixels, threads, progress
        self._content: dict[str, tuple[float, float, float, float]] = {}
        self._grey = lru_cache(_GREYS)(lambda name: read_grey(name, max_pixels, self._content.get(name)))
        self._near: dict[str, list[tuple[str, Floats]]] = {}  # near copies by leader, with its transform to them

    def _each(self, what: str, call: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
        """Return what a call gives for each item, in several threads."""
        total = len(items)
        done = partial(self._progress, what)
        return in_threads(lambda i: call(items[i]), total, self._threads, lambda count: done(count, total))

    def read(self, files: Sequence[str]) -> tuple[list[_Photo], list[tuple[str, str]]]:
        """Read photographs, those of the same bytes once; return them, and what failed with its reason."""
        digests = self._each("hashing", _digest, files)
        first = dict(reversed(list(zip(digests, files, strict=True))))
        grids = dict(zip(first, self._each("reading", self._grid, list(first.values())), strict=True))
        known, failed = [], []
        for digest, file in zip(digests, files, strict=True):
            found = grids[digest]
            if isinstance(found, str):
                failed.append((file, found))
            else:
                known.append(_Photo(file, digest, *found))
        return known, failed

    def _grid(self, file: str) -> tuple[tuple[int, int], npt.NDArray[np.float32]] | str:
        try:
            grey = read_grey(file, self._max_pixels)
        except ImageError as error:
            return error.reason
        self._content[file] = grey.content
        return grey.size, grid_of(grey.inside)

    def grouped(self, order: Sequence[_Photo], tested: Set[str] = frozenset()) -> tuple[list[Copy], list[_Photo]]:
        """Return exact copies and those that signatures give away, and the photographs that are none of others.

        Each is compared with such leaders before it only: thousands of copies of one take as many looks. Tested
        ones lead none.
        """
        single: dict[str, _Photo] = {}
        copies, photos = [], []
        for photo in order:
            same = single.setdefault(photo.digest, photo)
            if same is photo or same.path in tested:
                photos.append(photo)
            else:
                whole = _outline(corners_of((0, 0, *photo.size)))
                copies.append(Copy("exact", same.path, photo.path, 1.0, whole, whole))
        signatures = levels(np.array([photo.grid for photo in photos], np.float32).reshape(-1, 9, 9))
        leads, leaders = np.zeros(len(photos), bool), []
        for start in range(0, len(photos), _BLOCK):
            block = range(start, min(start + _BLOCK, len(photos)))
            rows = np.r_[np.flatnonzero(leads), block]
            views = levels(np.concatenate([turned_grids(photos[number].grid) for number in block]))
            apart = distances(views, signatures[rows]).reshape(len(block), VIEWS, len(rows))
            for number, own in zip(block, apart, strict=True):
                photo, nearest = photos[number], own.min(axis=0)
                near = np.flatnonzero(leads[rows] & (nearest <= _ALIKE))
                near = near[np.argsort(nearest[near], kind="stable")[:_LOOKS]]
                looked = (
                    self._laid_over(photos[rows[column]], photo, int(own[:, column].argmin())) for column in near
                )
                found = next((copy for copy in looked if copy is not None), None)
                copies += [] if found is None else [found]
                if found is None or found.kind != "copy":
                    leads[number] = photo.path not in tested
                    leaders.append(photo)
            self._progress("comparing", block.stop, len(photos))
        return copies, leaders

    def _laid_over(self, leader: _Photo, photo: _Photo, view: int) -> Copy | None:
        """Compare a photograph with a leader, its signature turned to one of the views."""
        if pair_of(leader.path, photo.path) in self._unlike:
            return None  # and it is looked for by itself
        start = laid_over(self._grey(photo.path), self._grey(leader.path), view)
        found = agreement(self._grey(leader.path), self._grey(photo.path), np.linalg.inv(start))
        copy = _copy(leader.path, photo.path, found)
        if found is not None and copy is not None and copy.kind == "copy":
            self._near.setdefault(leader.path, []).append((photo.path, found.transform))
        return copy

    def _compared(self, a: str, b: str, transform: Floats) -> Copy | None:
        """Compare leaders under a transform of pixels of a to pixels of b, or else near copies of one of them.

        A leader may have a caption where the other has none, or colours that clip.
        """
        near_a, near_b = (self._near.get(name, [])[:_OTHERS] for name in (a, b))
        pairs = [(a, b, transform)]
        pairs += [(near, b, transform @ np.linalg.inv(to_near)) for near, to_near in near_a]
        pairs += [(a, near, to_near @ transform) for near, to_near in near_b]
        looked = (_copy(x, y, agreement(self._grey(x), self._grey(y), start)) for x, y, start in pairs)
        return next((copy for copy in looked if copy is not None), None)

    def parts(
        self, engine: Engine, leaders: Sequence[str], tested: set[str], per_photo: int
    ) -> tuple[list[Copy], list[tuple[str, str]]]:
        """Return the copies that local features find among leaders, and what could not be extracted."""
        added = engine.add(leaders, max_pixels=self._max_pixels, progress=partial(self._progress, "extracting"))
        names = {engine.state.id_of(name): name for name in leaders if name in engine}
        missing = (name for name in leaders if name not in engine)
        failed = [(name, reason) for name, (_, reason) in zip(missing, added.failed, strict=True)]
        within = [image_id for image_id, name in names.items() if name not in tested]
        queries = [image_id for image_id, name in names.items() if name in tested] if tested else within
        if not queries or not within:
            return [], failed
        shortlists = self._candidates(engine, queries, within, per_photo)
        options = engine.state.rerank_options(top_n=max(1, *map(len, shortlists.values())), workers=self._threads)
        verifying = partial(self._progress, "verifying")
        ranked = rerank_batch(engine.store, shortlists, engine.store, options, progress=verifying)
        hopeful = [
            (query, [hit for hit in hits[:_DETAILED] if (hit.inliers or 0) >= _INLIERS])
            for query, hits in ranked.items()
        ]
        asked = replace(options, confirm=len(within))

        def looked(item: tuple[str, list[RankedCandidate]]) -> list[Copy]:
            query, hits = item
            fine_of = engine.state.fine_of
            confirmed = confirm_rankings({query: hits}, fine_of, fine_of, asked)[query]
            found = (self._judged(names[hit.id], names[query], hit, places=bool(tested)) for hit in confirmed)
            return [copy for copy in found if copy is not None]

        found = self._each("looking at details", looked, [item for item in hopeful if item[1]])
        return [copy for copies in found for copy in copies], failed

    def _candidates(
        self, engine: Engine, queries: Sequence[str], within: Sequence[str], per_photo: int
    ) -> dict[str, list[str]]:
        """Return for each photograph those of `within` that it finds first; a pair once, for the later one.

        A small part finds its whole, but is seldom found by it: either may find the other.
        """
        place = {image_id: number for number, image_id in enumerate(within)}
        found: dict[str, set[str]] = defaultdict(set)
        for start in range(0, len(queries), _QUERIES):
            block = queries[start : start + _QUERIES]
            features = engine.store.get_many(block)
            answers = engine.index.search_many(features, per_photo + 1, among=within, threads=self._threads)
            for query, (ids, _) in zip(block, answers, strict=True):
                for other in [image_id for image_id in ids if image_id != query][:per_photo]:
                    later = query not in place or place[other] < place[query]
                    found[query if later else other].add(other if later else query)
            self._progress("searching", start + len(block), len(queries))
        return {query: sorted(found[query], key=place.__getitem__) for query in queries}

    def _judged(self, a: str, b: str, hit: RankedCandidate, *, places: bool) -> Copy | None:
        """Return what a verified pair is; the verification is of b, the query, and a."""
        verification = hit.verification
        if verification is None or verification.fine is None:
            return None
        fine, transforms = verification.fine, []
        if fine.homography is not None and fine.planar > PLANAR_BY_CHANCE:
            transforms.append(np.array(fine.homography))
        if fine.transform is None and verification.transform is not None:  # of the coarse features
            transforms.append(verification.transform)
        for transform in transforms:
            found = self._compared(a, b, np.linalg.inv(HALF) @ np.linalg.inv(transform) @ HALF)
            if found is not None:
                return found
        if places and verification.same:
            return Copy("place", a, b, round(verification.probability or 0.0, 4))
        return None


def _copy(a: str, b: str, found: Agreement | None) -> Copy | None:
    """Return what two photographs are that agree so far; None if they are no copies."""
    if found is None or found.score < _SAME:
        return None
    outlines = _outline(found.outline_a), _outline(found.outline_b)
    score = round(found.score, 4)
    if found.part_a >= _WHOLE and found.part_b >= _WHOLE:
        return Copy("copy", a, b, score, *outlines)
    if found.part_b >= _WHOLE:
        return Copy("crop" if found.scale <= _LARGER else "embedded", a, b, score, *outlines)
    if found.part_a >= _WHOLE:
        return Copy("crop" if found.scale * _LARGER >= 1 else "embedded", b, a, score, *outlines[::-1])
    return Copy("part", a, b, score, *outlines)


def _images(paths: Paths) -> list[str]:
    """Return the files of a set, each once: who deletes a file for its links has lost it."""
    files = find_images([paths] if isinstance(paths, (str, os.PathLike)) else paths)
    linked = {os.path.realpath(name): name for name in reversed(files)}
    linked |= {name: own for own in files if (name := os.path.realpath(own)) == os.path.abspath(own)}
    return [name for name in files if linked[os.path.realpath(name)] is name]


def _digest(file: str) -> str:
    """Return the hash of a file's bytes, or its name if it cannot be read: why comes with its pixels."""
    try:
        return file_sha256(Path(file)) if Path(file).is_file() else file  # a pipe would block
    except OSError:
        return file


def _outline(points: Floats) -> Outline:
    return tuple((round(x, 2), round(y, 2)) for x, y in points.tolist())
