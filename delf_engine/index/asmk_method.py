"""The calls of the published ASMK package (jenicek/asmk 0.1.1) on this index, for programs that import it.

Instead of ``from asmk import ASMKMethod``::

    from delf_engine.index.asmk_method import ASMKMethod

Steps, parameters, metadata and results are those of the package; given the same words, scores too, to rounding.
What is different: k-means begins with other descriptors; caches are a codebook and an index of ours, no pickle
is read; words are found on the CPU, whatever ``gpu_id``; ``binary: False`` is refused, and ``use_idf: True``,
which has other norms there; vectors are of unit length; images of equal scores are in the order of their ids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.errors import ConfigError, DataError
from delf_engine.features import LocalFeatures
from delf_engine.index.asmk.index import AsmkIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.support.threads import check_threads

Array = npt.NDArray[Any]
Parameters = Mapping[str, Any]
Path = str | os.PathLike[str]

_BLOCK = 256  # images that are added together
_UNITS = {"k": 1024, "M": 1024**2}


class ASMKMethod:
    """ASMK step by step: each returns a new object, and leaves this one as it is.

    Parameters
    ----------
    params : mapping
        ``train_codebook``, ``build_ivf`` and ``query_ivf``, the parameters of each step as in the package's files.
    metadata : mapping
        Of the steps that were done: times in seconds, and statistics of the inverted file.
    codebook : Codebook or None
    inverted_file : AsmkIndex or None
    offset : int
        Images of the distractors that the inverted file began with.
    """

    def __init__(
        self,
        params: Parameters,
        metadata: Parameters,
        *,
        codebook: Codebook | None = None,
        inverted_file: AsmkIndex | None = None,
        offset: int = 0,
    ) -> None:
        self.params, self.metadata = dict(params), dict(metadata)
        self.codebook, self.inverted_file = codebook, inverted_file
        self._offset = offset

    @classmethod
    def initialize_untrained(cls, params: Parameters) -> ASMKMethod:
        """Return a method without a codebook."""
        return cls(params, {})

    def train_codebook(
        self, vecs: npt.ArrayLike, *, cache_path: Path | None = None, step_params: Parameters | None = None
    ) -> ASMKMethod:
        """Train the visual words on (N, D) vectors, or load them where they were cached."""
        if self.codebook is not None:
            raise ConfigError("the codebook is trained already; begin with initialize_untrained(params)")
        params = step_params or self.params["train_codebook"]
        words, start = _size(params["codebook"]["size"]), time.time()
        if cache_path and os.path.exists(cache_path):
            codebook = Codebook.load(cache_path)
            if codebook.words != words:
                raise ConfigError(f"{cache_path}: has {codebook.words} words, wanted {words}; name another cache")
            metadata: dict[str, Any] = {"load_time": time.time() - start}
        else:
            codebook = Codebook.train(vecs, words)
            taken = time.time() - start
            metadata = {"cluster_time": taken, "index_time": 0.0, "train_time": taken}
            if cache_path:
                codebook.save(cache_path)
        metadata["index_class"] = type(codebook).__name__
        return ASMKMethod(
            {**self.params, "train_codebook": params},
            {**self.metadata, "train_codebook": metadata},
            codebook=codebook,
        )

    def build_ivf(
        self,
        vecs: npt.ArrayLike,
        imids: npt.ArrayLike,
        *,
        distractors_path: Path | None = None,
        cache_path: Path | None = None,
        step_params: Parameters | None = None,
    ) -> ASMKMethod:
        """Index (N, D) vectors of the images `imids`, (N,) ascending, or load the index where it was cached."""
        builder = self.create_ivf_builder(cache_path=cache_path, step_params=step_params)
        if not builder.loaded_from_cache:
            if distractors_path:
                builder.initialize_with_distractors(distractors_path)
            builder.add(vecs, imids)
        return self.add_ivf_builder(builder)

    def create_ivf_builder(
        self, *, cache_path: Path | None = None, step_params: Parameters | None = None
    ) -> IvfBuilder:
        """Return what images are added to one part after the other."""
        if self.codebook is None or self.inverted_file is not None:
            raise ConfigError("an inverted file is built once, after the codebook is trained")
        return IvfBuilder(step_params or self.params["build_ivf"], self.codebook, cache_path)

    def add_ivf_builder(self, ivf_builder: IvfBuilder) -> ASMKMethod:
        """Return the method with the images that were added."""
        return ASMKMethod(
            {**self.params, "build_ivf": ivf_builder.step_params},
            {**self.metadata, "build_ivf": ivf_builder.save()},
            codebook=self.codebook,
            inverted_file=ivf_builder.ivf,
            offset=ivf_builder.offset,
        )

    def query_ivf(
        self,
        qvecs: npt.ArrayLike,
        qimids: npt.ArrayLike,
        *,
        step_params: Parameters | None = None,
        progress: int | None = None,
    ) -> tuple[dict[str, float], Array, Array, Array]:
        """Search with the images `qimids`; return metadata, their ids (Q,), and ranks and scores, (Q, K).

        Ranks are ids of images, best first, all of them or the first ``topk``; those of distractors are negative.
        """
        index = self.inverted_file
        if index is None:
            raise ConfigError("there is no inverted file yet; call build_ivf first")
        params, start = step_params or self.params["query_ivf"], time.time()
        similarity = params["similarity"]
        index = index.copy()
        index.config = index.config.model_copy(
            update={
                "query_assignments": params["quantize"]["multiple_assignment"],
                "alpha": float(similarity["alpha"]),
                "threshold": float(similarity["similarity_threshold"]),
            }
        )
        rows = np.array([int(name) for name in index.ids()])
        images, all_ranks, all_scores = [], [], []
        queries = _by_image(qvecs, qimids)
        for image, vectors in queries:
            scores = np.zeros(int(rows.max(initial=-1)) + 1)
            if len(rows):
                (query,) = index._queries([vectors], check_threads(None))
                scores[rows] = index._score(query, check_threads(None))
            ranks = np.argsort(-scores, kind="stable")[: params["search"]["topk"]]
            images.append(image)
            all_ranks.append(ranks - self._offset)
            all_scores.append(scores[ranks])
            _report(len(images), len(queries), progress, "Query")
        metadata = {"query_avg_time": (time.time() - start) / max(1, len(images))}
        return metadata, np.array(images), np.array(all_ranks), np.array(all_scores)


class IvfBuilder:
    """An inverted file that images are added to; see `ASMKMethod.create_ivf_builder`."""

    def __init__(self, step_params: Parameters, codebook: Codebook, cache_path: Path | None) -> None:
        if step_params["kernel"]["binary"] not in (True, "bin") or step_params["ivf"]["use_idf"]:
            raise ConfigError("this index has binary codes and no idf: binary must be True and use_idf False")
        self.step_params, self.codebook = step_params, codebook
        self.offset = 0
        self._cache_path, start = cache_path, time.time()
        config = _config(step_params["quantize"]["multiple_assignment"])
        if cache_path and os.path.exists(cache_path):
            self.ivf = AsmkIndex.load(cache_path, codebook, config)
            self.metadata = {"load_time": time.time() - start}
        else:
            self.ivf = AsmkIndex(codebook, config)
            self.metadata = {"index_time": 0.0}

    @property
    def loaded_from_cache(self) -> bool:
        """Whether it was loaded; otherwise it was empty at first."""
        return "load_time" in self.metadata

    def initialize_with_distractors(self, path: Path) -> None:
        """Begin with the images of another inverted file, as its builder has cached it."""
        self.ivf = AsmkIndex.load(path, self.codebook, self.ivf.config)
        self.offset = 1 + max((int(name) for name in self.ivf.ids()), default=-1)

    def add(self, vecs: npt.ArrayLike, imids: npt.ArrayLike, *, progress: int | None = None) -> None:
        """Add (N, D) vectors of the images `imids`, (N,) ascending and not there yet."""
        start, images = time.time(), _by_image(vecs, imids)
        for first in range(0, len(images), _BLOCK):
            some = images[first : first + _BLOCK]
            names = [str(image + self.offset) for image, _ in some]
            if self.ivf.add(names, [vectors for _, vectors in some]) != names:
                raise DataError("an image is in the inverted file already; give all vectors of an image at once")
            _report(first + len(some), len(images), progress, "Index")
        self.metadata["index_time"] = self.metadata.get("index_time", 0.0) + time.time() - start

    def save(self) -> dict[str, Any]:
        """Write the cache, if it has a path and was not loaded, and return the metadata."""
        if self._cache_path and not self.loaded_from_cache:
            self.ivf.save(self._cache_path)
        info = self.ivf.info()
        images = max(info.images, 1)
        stats = {"images": info.images, "vectors_per_image": info.entries / images}
        stats["mean_entries_per_vw"] = info.entries / self.codebook.words
        return {**self.metadata, "ivf_stats": stats}


def _config(assignments: int) -> AsmkConfig:
    """Return the options of the package, which divides by D rounded up to a multiple of 32."""
    values = {"image_assignments": assignments, "assignment": "exact", "divisor": "padded", "idf": False}
    return load_profile().asmk.model_copy(update={**values, "regions": None})


def _size(size: int | str) -> int:
    return int(size[:-1]) * _UNITS[size[-1]] if isinstance(size, str) and size[-1] in _UNITS else int(size)


def _by_image(vecs: npt.ArrayLike, imids: npt.ArrayLike) -> list[tuple[int, LocalFeatures]]:
    """Return the vectors of each image, which stand together and in order of their ids."""
    vectors, images = np.asarray(vecs, np.float32), np.asarray(imids)
    if images.shape != vectors.shape[:1] or (np.diff(images) < 0).any():
        raise DataError(
            f"expected one image id a vector, ascending, got {images.shape} for vectors {vectors.shape}"
        )
    firsts = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
    parts = np.split(vectors, firsts[1:])
    return [(int(images[first]), _features(part)) for first, part in zip(firsts, parts, strict=False)]


def _features(vectors: Array) -> LocalFeatures:
    n = len(vectors)
    return LocalFeatures(np.zeros((n, 2)), np.ones(n), np.zeros(n), vectors, (1, 1))  # type: ignore[arg-type]


def _report(done: int, total: int, every: int | None, what: str) -> None:
    if every and (done % every == 0 or done == total):
        print(f"{what}: [{done}/{total}]")
