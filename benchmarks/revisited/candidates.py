"""Candidates of every query: from indexes of ours, and from shortlists of any other search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.revisited.features import FeatureFile, key_of
from benchmarks.revisited.stages import Stages
from delf_engine import AsmkIndex, Codebook, KdTreeIndex, LocalFeatures
from delf_engine.config import Profile
from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation import GroundTruth
from delf_engine.index import IvfIndex, has_index
from delf_engine.reranking import read_shortlists

__all__ = ["Candidates", "Gallery", "codebook_of", "of_index", "of_shortlist"]

_SAVED_EVERY = 4096  # images of an index between saves
_ITERATIONS = 10  # of k-means, as published
_TOGETHER = 1_000_000  # images ranked at a time, by name: fewer queries together in a large gallery

Int32: TypeAlias = npt.NDArray[np.int32]
Float32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """Ranked images of each query, as indices into the names of the ground truth.

    Attributes
    ----------
    name : str
    order : sequence of Q int32 arrays
        Best first.
    scores : sequence of Q float32 arrays, or None
        None: the shortlist has none.
    seconds_per_query : float or None
        None: of a shortlist.
    """

    name: str
    order: Sequence[Int32]
    scores: Sequence[Float32] | None
    seconds_per_query: float | None


class Gallery:
    """Features of all images that are searched: the set's own, and distractors.

    Parameters
    ----------
    own, distractors : FeatureFile
        Names of distractors are those that the ground truth has for them.
    """

    def __init__(self, own: FeatureFile, distractors: FeatureFile | None = None) -> None:
        self.own = own
        self.distractors = distractors

    def get(self, name: str) -> LocalFeatures:
        """Return the features of one image."""
        if self.distractors is not None and name in self.distractors.ids:
            return self.distractors.get(name)
        return self.own.get(name)

    def __len__(self) -> int:
        return len(self.own.ids) + (0 if self.distractors is None else len(self.distractors.ids))


def codebook_of(
    features: FeatureFile,
    words: int,
    *,
    per_image: int,
    seed: int,
    folder: Path,
    title: str,
    stages: Stages,
) -> Path:
    """Train visual words on features, or find those that are there; a stopped training goes on.

    Returns
    -------
    Path
        Of the codebook.

    Raises
    ------
    FeatureError
        If there are fewer descriptors than words.
    """
    key = key_of(features.store.model, *features.ids.values(), f"{words} {per_image} {seed}")
    path = folder / f"{key}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    begun = sorted(folder.glob(f"{key}.after-*.safetensors"))[-1:]
    done = _ITERATIONS if path.is_file() else sum(int(p.stem[-2:]) for p in begun)
    with stages.stage(title, key, _ITERATIONS, cached=done) as clock:
        codebook: Any = Codebook.load(begun[0]) if begun else None
        for iteration in range(done + 1, _ITERATIONS + 1):
            # One at a time gives the same words as all at once, if they are rounded at the end only.
            codebook = Codebook.train(
                _Descriptors(features, per_image), words, iterations=1, seed=seed, init=codebook
            )
            last = iteration == _ITERATIONS
            target = path if last else folder / f"{key}.after-{iteration:02d}.safetensors"
            (codebook.to_half() if last else codebook).save(target)
            for old in begun:
                old.unlink()
            begun = [] if last else [target]
            clock.advance()
    return path


def of_index(
    kind: str,
    codebook: Codebook | None,
    profile: Profile,
    gallery: Gallery,
    queries: FeatureFile,
    truth: GroundTruth,
    *,
    name: str,
    folder: Path,
    top_n: int,
    seed: int,
    stages: Stages,
    threads: int | None,
) -> Candidates:
    """Index the gallery and rank all of it for every query.

    An index by visual words is kept on disk; distractors have one of their own, which any gallery with the same
    features and words joins in memory. KD-trees are built anew.

    Parameters
    ----------
    kind : "asmk", "kdtree" or "ivf"
    codebook : Codebook or None
        Needed by all but KD-trees.
    top_n : int
        Images that are asked for when a query's search is timed.
    """
    built = _Builder(kind, queries.store.dim, codebook, profile, folder, name, seed, stages, threads).index(
        gallery
    )
    place = {image: i for i, image in enumerate(truth.names)}
    seconds = _seconds_per_query(
        built, queries, list(truth.query_names), top_n, f"{name}: search", stages, threads
    )
    order: list[Int32] = []
    scores: list[Float32] = []
    with stages.stage(f"{name}: whole rankings", None, len(truth)) as clock:
        for part in queries.batches(list(truth.query_names), min(64, 1 + _TOGETHER // max(1, len(built)))):
            for ids, found in built.search_many(list(part.values()), len(built), threads=threads):
                order.append(np.fromiter((place[i] for i in ids), np.int32, len(ids)))
                scores.append(found)
            clock.advance(len(part))
    return Candidates(name, order, scores, seconds)


def _seconds_per_query(
    index: Any,
    queries: FeatureFile,
    names: list[str],
    top_n: int,
    title: str,
    stages: Stages,
    threads: int | None,
) -> float:
    """Search as a user would, for the first images: naming all of a gallery takes longer than finding them."""
    with stages.stage(title, None, len(names)) as clock:
        for part in queries.batches(names, 64):
            index.search_many(list(part.values()), top_n, threads=threads)
            clock.advance(len(part))
    return clock.stage.seconds / len(names)


def of_shortlist(path: Path, truth: GroundTruth, whole: GroundTruth) -> Candidates:
    """Read the shortlist of another search; ids may be names, or paths of files of that name.

    Parameters
    ----------
    path : Path
        Of any format that `delf_engine.reranking.read_shortlists` reads.
    truth : GroundTruth
        What is measured.
    whole : GroundTruth
        Row numbers count its images. Images and queries of it that `truth` does not have are passed over.

    Raises
    ------
    FormatError
        If the file cannot be read, or a query has no shortlist.
    DataError
        If it holds ids that the ground truth does not know.
    """
    try:
        found = read_shortlists(path, distinct=True)
    except ConfigError:  # row numbers
        found = read_shortlists(path, names=whole.names, queries=whole.query_names, distinct=True)
    here = {name: i for i, name in enumerate(truth.names)}
    known = {**dict.fromkeys(whole.names, -1), **here}
    asked = dict.fromkeys(whole.query_names)
    lists = {_named(query, asked): entries for query, entries in found.items()}
    absent = [query for query in truth.query_names if query not in lists]
    if absent:
        raise FormatError(
            f"{path}: has no shortlist for {len(absent)} of {len(truth)} queries, such as {absent[0]!r}"
        )
    order: list[Int32] = []
    scores: list[Float32] = []
    for query in truth.query_names:
        entries = [(entry, None) if isinstance(entry, str) else entry for entry in lists[query]]
        names = [_named(image, known) for image, _ in entries]
        unknown = [image for image in names if image not in known]
        if unknown:
            more = f" and {len(unknown) - 1:,} more are" if len(unknown) > 1 else " is"
            raise DataError(
                f"{path}: query {query!r}: {unknown[0]!r}{more} not in the gallery of the ground truth; is it a "
                "shortlist of another set?"
            )
        places = np.array([known[image] for image in names], np.int32)
        if len(np.unique(places[places >= 0])) < np.count_nonzero(places >= 0):
            raise DataError(f"{path}: query {query!r}: an image stands in its shortlist twice")
        order.append(places[places >= 0])
        if entries and entries[0][1] is not None:
            scores.append(np.array([score for _, score in entries], np.float32)[places >= 0])
    return Candidates(path.stem, order, scores if len(scores) == len(order) else None, None)


@dataclass(frozen=True)
class _Builder:
    kind: str
    dim: int
    codebook: Codebook | None
    profile: Profile
    folder: Path
    name: str
    seed: int
    stages: Stages
    threads: int | None

    def index(self, gallery: Gallery) -> Any:
        """Return an index of the whole gallery."""
        if gallery.distractors is None:
            return self._filled(gallery.own, "index", keep=self.kind != "kdtree")
        index = self._filled(gallery.distractors, "index of distractors", keep=self.kind != "kdtree")
        title = f"{self.name}: index"
        with self.stages.stage(title, None, len(gallery.own.ids)) as clock:
            self._add(index, gallery.own, list(gallery.own.ids), clock.advance, None)
        return index

    def _filled(self, features: FeatureFile, what: str, *, keep: bool) -> Any:
        options = getattr(self.profile, self.kind)
        words = "" if self.codebook is None else self.codebook.hash
        key = key_of(self.kind, options.model_dump_json(), words, features.store.model, *features.ids.values())
        path = self.folder / f"{self.kind}-{key}"
        index = self._opened(path) if keep and has_index(path) else self._new()
        missing = [name for name in features.ids if name not in index]
        cached = len(features.ids) - len(missing)
        with self.stages.stage(f"{self.name}: {what}", key, len(features.ids), cached=cached) as clock:
            self._add(index, features, missing, clock.advance, path if keep else None)
            if self.kind == "kdtree" and len(index):  # trees are built by the first search
                index.search(features.get(next(iter(features.ids))), 1)
        return index

    def _add(
        self,
        index: Any,
        features: FeatureFile,
        names: list[str],
        advance: Callable[[int], None],
        path: Path | None,
    ) -> None:
        waiting = 0
        for part in features.batches(names):
            index.add(list(part), list(part.values()), threads=self.threads)
            waiting += len(part)
            if path is not None and waiting >= _SAVED_EVERY:
                index.save(path)
                waiting = 0
            advance(len(part))
        if path is not None and waiting:
            index.save(path)

    def _new(self) -> Any:
        if self.kind == "kdtree":
            return KdTreeIndex(self.dim, self.profile.kdtree, seed=self.seed)
        assert self.codebook is not None
        kind: Any = {"asmk": AsmkIndex, "ivf": IvfIndex}[self.kind]
        return kind(self.codebook, getattr(self.profile, self.kind))

    def _opened(self, path: Path) -> Any:
        kind: Any = {"asmk": AsmkIndex, "ivf": IvfIndex}[self.kind]
        return kind.load(path, self.codebook, getattr(self.profile, self.kind))


class _Descriptors:
    """The best descriptors of each image, as arrays that are read from the store in every pass."""

    def __init__(self, features: FeatureFile, per_image: int) -> None:
        self._features = features
        self._per_image = per_image

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        for part in self._features.batches(size=64):
            yield np.concatenate([item.descriptors[: self._per_image] for item in part.values()])


def _named(image_id: str, names: Any) -> str:
    return image_id if image_id in names else Path(image_id).stem
