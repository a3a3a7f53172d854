"""`KdTreeIndex`: candidates by nearest neighbours of single descriptors, in KD-trees.

Every query descriptor finds its nearest descriptors in the whole collection, which are gathered by the image
they belong to (Noh et al. 2017).

Burstiness. A repeated structure, such as a row of equal windows, would outvote everything else: its descriptors
find each other, and their number grows with the square of the repetitions. Therefore each image gets of each query
descriptor one vote at most, for its nearest descriptor, which handles repetitions in the image; and each
descriptor of an image gives one at most, to the nearest query descriptor, which handles those in the query.

A vote counts by how far it stands out from the background, which the farthest of the neighbours found stands for::

    score = sum over such pairs of  max(0, cosine) - 0.99 max(0, cosine of the farthest neighbour)

The last hundredth keeps images above 0 that are all equally near.

Neighbours are found by randomised trees, most of them, or by one tree that is searched to the end, all of them.
The latter costs time in proportion to the collection and is for small ones: `KdTreeConfig`.

References
----------
Noh, Araujo, Sim, Weyand, Han: Large-scale image retrieval with attentive deep local features. ICCV 2017.
Muja, Lowe: Fast approximate nearest neighbors with automatic algorithm configuration. VISAPP 2009 (the trees).
Jégou, Douze, Schmid: On the burstiness of visual elements. CVPR 2009 (one vote).
McCann, Lowe: Local naive Bayes nearest neighbor for image classification. CVPR 2012 (the background).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import KdTreeConfig, load_profile, parse_config
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index import disk
from delf_engine.index.collection import Attachment, Collection, IfDamaged
from delf_engine.index.contract import Found, IndexInfo, Progress, check_batch, check_queries, check_query
from delf_engine.index.exact_tree import ExactTree
from delf_engine.index.kdtree_layout import KIND, VERSION, KdTreeLayout, live_rows
from delf_engine.index.limits import Limits
from delf_engine.index.maintenance import Maintained
from delf_engine.index.threads import check_threads, in_threads
from delf_engine.index.votes import gathered

__all__ = ["KdTreeIndex"]

_KDTREE = 1  # FLANN_INDEX_KDTREE
_FEW = 8  # times the neighbours asked for


class KdTreeIndex(Maintained):
    """KD-trees over all descriptors of a collection.

    The trees are built when first searched after a change, over the images that are there: about a second for
    300,000 descriptors. They are held in memory together with the descriptors; for large collections use
    `AsmkIndex` or `IvfIndex`.

    Parameters
    ----------
    dim : int
        Descriptor dimension D.
    config : KdTreeConfig, optional
        By default that of the ``default`` profile.
    seed : int
        Of the trees.
    """

    def __init__(self, dim: int, config: KdTreeConfig | None = None, *, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"dim must be at least 1, got {dim}")
        self.config = load_profile().kdtree if config is None else config
        self.seed = seed
        self._dim = dim
        self._collection = Collection(KdTreeLayout(dim))
        self._forest: _Forest | None = None

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self._dim

    def add(self, ids: Sequence[str], features: Sequence[LocalFeatures]) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.

        Returns
        -------
        list of str
            The ids that were new. One that is there already, or occurs twice, is left alone.

        Raises
        ------
        ConfigError
            If lengths differ or an id is empty or not a string.
        MismatchError
            If descriptors have another dimension than the index.
        """
        batch = check_batch(ids, features, self.dim)
        new = {image_id: item.descriptors for image_id, item in batch.items() if image_id not in self}
        self._collection.add(new)
        self._forest = None if new else self._forest
        return list(new)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images. They are found no more at once, and gone from disk after the next `save`.

        Raises
        ------
        UnknownIdError
            If one is not in the index; none is removed then.
        """
        self._collection.remove(ids)
        self._forest = None

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
        """
        top_k = check_query(features, top_k, self.dim)
        limits = self._limits(among, exclude, min_score)
        return self._found(features, self._grown() if len(features) else None, top_k, limits)

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
        limits = self._limits(among, exclude, min_score)
        forest = self._grown() if any(map(len, several)) else None
        report = None if progress is None else lambda done: progress(done, len(several))
        return in_threads(lambda i: self._found(several[i], forest, top_k, limits), len(several), threads, report)

    def _limits(self, among: Iterable[str] | None, exclude: Iterable[str], min_score: float | None) -> Limits:
        limits = Limits.of(self._collection, among, exclude, min_score)
        if limits.allowed is None:
            return limits
        alive = [np.empty(0, bool), *(segment.alive for segment in self._collection.segments)]
        return replace(limits, allowed=limits.allowed[np.concatenate(alive)])  # as trees count images

    def _found(self, features: LocalFeatures, forest: _Forest | None, top_k: int, limits: Limits) -> Found:
        if forest is None or not len(features):
            return [], np.empty(0, np.float32)
        rows, squared = forest.nearest(features.descriptors, self.config)
        scores = gathered(rows, squared, forest.images[rows], len(forest.ids))
        found = limits.best(scores, top_k)
        return [forest.ids[row] for row in found], scores[found]

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
            kind=KIND,
            images=len(self),
            removed=sum(segment.dead for segment in segments),
            entries=sum(len(segment.arrays["descriptors"]) for segment in segments),
            bytes=sum(array.nbytes for segment in segments for array in segment.arrays.values()),
            segments=len(segments),
            dim=self.dim,
        )

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False, trees: bool = False) -> None:
        """Write what is new since the last save into `directory`.

        Parameters
        ----------
        directory : path
            Made if need be.
        overwrite : bool
            Replace another index that is there.
        trees : bool
            Write randomised trees too, about 50 bytes a tree and descriptor: the first search after loading
            then begins about eight times sooner. The next save after a change drops them.

        Raises
        ------
        MismatchError
            If `directory` holds another index and `overwrite` is not set.
        LockedError
            If another process is saving to it, or has since this index was loaded.
        FormatError
            If it cannot be written. What was saved before is still there.
        """
        # Without options at their defaults: a header that versions from before these options read too.
        config = self.config.model_dump(mode="json", exclude_defaults=True)
        header = {"dim": self.dim, "seed": self.seed, "config": config}
        attachment: Attachment | None = None
        if trees and (forest := self._grown()) is not None and forest.trees is not None:
            grown = forest.trees
            attachment = (self._growth(), lambda path: grown.save(str(path)))
        self._collection.save(directory, header, overwrite=overwrite, attachment=attachment)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        config: KdTreeConfig | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> KdTreeIndex:
        """Open an index that was saved.

        Parameters
        ----------
        directory : path
        config : KdTreeConfig, optional
            By default that which it was saved with.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """
        collection = Collection.load(
            directory, lambda h: KdTreeLayout(h["dim"]), KIND, VERSION, check=check, damaged=damaged
        )
        header = collection.header
        saved = parse_config(KdTreeConfig, header["config"], where=str(directory))
        index = cls(header["dim"], saved if config is None else config, seed=header["seed"])
        index._collection = collection
        return index

    def __repr__(self) -> str:
        return f"KdTreeIndex({len(self)} images, {self.dim}-D, {self.config.trees} trees)"

    def _rearranged(self) -> None:
        self._forest = None

    def _growth(self) -> dict[str, Any]:
        import cv2

        return {"opencv": cv2.__version__, "trees": self.config.trees, "seed": self.seed}

    def _grown(self) -> _Forest | None:
        """Return the trees over the images that are there, or None if these have no descriptor at all."""
        if self._forest is not None:
            return self._forest
        self._collection.flush()
        descriptors, images = live_rows(self._collection.segments, self.dim)
        if not len(descriptors):
            return None
        exact = ExactTree(descriptors) if self._is_exact(len(descriptors)) else None
        trees = None if exact is not None else self._randomised(descriptors)
        self._forest = _Forest(trees, exact, descriptors, images, self.ids())
        return self._forest

    def _is_exact(self, count: int) -> bool:
        config = self.config
        # FLANN keeps no more branches in mind than there are descriptors: of few it may not find as many as asked.
        few = count < _FEW * config.neighbours
        return few or config.search == "exact" or (config.search == "auto" and count < config.exact_below)

    def _randomised(self, descriptors: npt.NDArray[np.float32]) -> Any:
        import cv2

        trees = self._loaded_trees(descriptors)
        if trees is None:
            cv2.setRNGSeed(self.seed)  # the only way to seed FLANN: the generator of this thread
            trees = cv2.flann.Index(descriptors, {"algorithm": _KDTREE, "trees": self.config.trees})
        return trees

    def _loaded_trees(self, descriptors: npt.NDArray[np.float32]) -> Any:
        import cv2

        attached = self._collection.attachment
        if attached is None or not self._growth().items() <= attached[1].items():
            return None
        # Trees can be grown again at any time, and FLANN trusts its file blindly.
        trees = cv2.flann.Index()
        return trees if disk.intact(*attached) and trees.load(descriptors, str(attached[0])) else None


@dataclass(frozen=True)
class _Forest:
    trees: Any  # of FLANN; None where the tree is exact
    exact: ExactTree | None
    descriptors: npt.NDArray[np.float32]  # (R, D), which the trees refer to
    images: npt.NDArray[np.int64]  # (R,) place in `ids` of each descriptor's image
    ids: list[str]

    def nearest(
        self, queries: npt.NDArray[np.float32], config: KdTreeConfig
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the rows of the nearest descriptors, (Q, K), and their squared distances."""
        k = min(config.neighbours, len(self.descriptors))
        if self.exact is not None:
            return self.exact.nearest(queries, k)
        rows, squared = self.trees.knnSearch(queries, k, params={"checks": config.checks})
        return rows, squared
