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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import KdTreeConfig, load_profile, parse_config
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index import disk
from delf_engine.index.base import BaseIndex
from delf_engine.index.collection import Attachment, IfDamaged
from delf_engine.index.exact_tree import ExactTree
from delf_engine.index.kdtree_layout import KIND, VERSION, KdTreeLayout, live_rows
from delf_engine.index.votes import gathered

__all__ = ["KdTreeIndex"]

_KDTREE = 1  # FLANN_INDEX_KDTREE
_FEW = 8  # times the neighbours asked for


class KdTreeIndex(BaseIndex[npt.NDArray[np.float32]]):
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

    kind = KIND
    version = VERSION
    _entries = "descriptors"

    def __init__(self, dim: int, config: KdTreeConfig | None = None, *, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"dim must be at least 1, got {dim}")
        super().__init__(dim, KdTreeLayout(dim))
        self.config = load_profile().kdtree if config is None else config
        self.seed = seed
        self._forest: _Forest | None = None

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
        attachment: Attachment | None = None
        if trees and (forest := self._session()) is not None and forest.trees is not None:
            grown = forest.trees
            attachment = (self._growth(), lambda path: grown.save(str(path)))
        self._write(directory, overwrite, attachment)

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

        def make(header: Mapping[str, Any]) -> KdTreeIndex:
            saved = parse_config(KdTreeConfig, header["config"], where=str(directory))
            return cls(header["dim"], saved if config is None else config, seed=header["seed"])

        return cls._opened(directory, make, check, damaged)

    def __repr__(self) -> str:
        return f"KdTreeIndex({len(self)} images, {self.dim}-D, {self.config.trees} trees)"

    def _header(self) -> dict[str, Any]:
        # Without options at their defaults: a header that versions from before these options read too.
        return {"seed": self.seed, "config": self.config.model_dump(mode="json", exclude_defaults=True)}

    def _changed(self) -> None:
        self._forest = None

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[npt.NDArray[np.float32]]:
        return [item.descriptors for item in items]

    def _queries(
        self, items: Sequence[LocalFeatures], threads: int, session: _Forest | None
    ) -> list[npt.NDArray[np.float32]]:
        return self._images(items, threads)

    def _scores(
        self, queries: Sequence[npt.NDArray[np.float32]], threads: int, session: _Forest | None
    ) -> list[npt.NDArray[np.float32]]:
        alive = np.concatenate([segment.alive for segment in self._collection.segments])
        out = [np.zeros(len(alive), np.float32) for _ in queries]
        for descriptors, scores in zip(queries, out, strict=True):
            if session is not None and len(descriptors):
                rows, squared = session.nearest(descriptors, self.config)
                scores[alive] = gathered(rows, squared, session.images[rows], len(self))
        return out

    def _growth(self) -> dict[str, Any]:
        import cv2

        return {"opencv": cv2.__version__, "trees": self.config.trees, "seed": self.seed}

    def _session(self) -> _Forest | None:
        """Return the trees over the images that are there, or None if these have no descriptor at all."""
        if self._forest is not None:
            return self._forest
        self._collection.flush()
        descriptors, images = live_rows(self._collection.segments, self.dim)
        if not len(descriptors):
            return None
        exact = ExactTree(descriptors) if self._is_exact(len(descriptors)) else None
        trees = None if exact is not None else self._randomised(descriptors)
        self._forest = _Forest(trees, exact, descriptors, images)
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
    images: npt.NDArray[np.int64]  # (R,) of each descriptor, counted among those that are there

    def nearest(
        self, queries: npt.NDArray[np.float32], config: KdTreeConfig
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the rows of the nearest descriptors, (Q, K), and their squared distances."""
        k = min(config.neighbours, len(self.descriptors))
        if self.exact is not None:
            return self.exact.nearest(queries, k)
        rows, squared = self.trees.knnSearch(queries, k, params={"checks": config.checks})
        return rows, squared
