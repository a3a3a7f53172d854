"""`DenseIndex`: candidates by one vector an image, BoW, VLAD or Fisher, compared by their cosine with faiss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delf_engine.config import BowConfig, FisherConfig, VladConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.mixture import Mixture
from delf_engine.index.contract import Frequencies
from delf_engine.index.dense.encodings import (
    Vector,
    bow_vector,
    euclidean_length,
    fisher_vector,
    inverse_document_frequency,
    vlad_vector,
)
from delf_engine.index.segments.segment import Segment
from delf_engine.index.vectors import RowLayout, products
from delf_engine.support.threads import in_threads

DenseKind: TypeAlias = Literal["bow", "vlad", "fisher"]
DenseConfig: TypeAlias = BowConfig | VladConfig | FisherConfig

#: Components of a vector at most: a mebibyte an image. An inverted file serves larger codebooks better.
LARGEST = 1 << 18

_CONFIGS: dict[str, type[BowConfig | VladConfig | FisherConfig]] = {
    "bow": BowConfig,
    "vlad": VladConfig,
    "fisher": FisherConfig,
}
_BUILT_WITH = {"bow": (), "vlad": ("intra", "power", "regions"), "fisher": ("power",)}


class DenseIndex(CandidateIndex[Vector, DenseConfig]):
    """One row an image, memory-mapped; searching reads every row.

    Bags of words are weighed by how rare each word is among the images that are there (tf-idf): the first search
    after a change computes these weights and the lengths of all rows anew.

    Parameters
    ----------
    kind : "bow", "vlad" or "fisher"
        What the rows are: `bow_vector`, `vlad_vector` or `fisher_vector` of `delf_engine.index.encodings`.
    encoder : Codebook or Mixture
        A mixture of Gaussians for "fisher", else a codebook. Best trained on other images than those indexed.
    config : BowConfig, VladConfig or FisherConfig, optional
        By default that of the ``default`` profile.

    Raises
    ------
    ConfigError
        If kind, codebook or mixture, and options do not go together, or a vector would have more than 262,144
        components.
    """

    def __init__(self, kind: DenseKind, encoder: Codebook | Mixture, config: DenseConfig | None = None) -> None:
        if kind not in get_args(DenseKind):
            raise ConfigError(f"a dense index is one of {', '.join(get_args(DenseKind))}, got {kind!r}")
        self.kind, self._fixed = kind, _BUILT_WITH[kind]
        self.encoder = encoder
        config = getattr(load_profile(), kind) if config is None else config
        if not isinstance(config, _CONFIGS[kind]) or isinstance(encoder, Mixture) != (kind == "fisher"):
            wanted = "a mixture" if kind == "fisher" else "a codebook"
            raise ConfigError(
                f"an index of kind {kind!r} takes {wanted} and a {_CONFIGS[kind].__name__}, got "
                f"{type(encoder).__name__} and {type(config).__name__}"
            )
        length = _length(kind, encoder)
        if length > LARGEST:
            raise ConfigError(
                f"vectors of {encoder!r} have {length:,} components, at most {LARGEST:,} are possible; train a "
                "smaller one, or use an ASMK index"
            )
        self._weights: _Weights | None = None
        super().__init__(encoder.dim, RowLayout(length), encoder, config)

    @classmethod
    def _kinds(cls) -> tuple[str, ...]:
        return get_args(DenseKind)

    @classmethod
    def _empty(cls, header: Mapping[str, Any], kind: Any, encoder: Any, config: Any) -> DenseIndex:
        return cls(kind, encoder, config)

    def __repr__(self) -> str:
        return f"DenseIndex({self.kind!r}, {len(self)} images, {self.encoder!r})"

    def _entries(self, segment: Segment) -> int:
        return len(segment.ids)

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Vector]:
        return in_threads(lambda i: self._vector(items[i], query=False), len(items), threads)

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: _Weights | None) -> list[Vector]:
        return in_threads(lambda i: self._vector(items[i], query=True), len(items), threads)

    def _vector(self, features: LocalFeatures, query: bool) -> Vector:
        words: Any = self.encoder
        match self.config:
            case BowConfig() as bow:
                return bow_vector(features, words, assignments=bow.query_assignments if query else 1)
            case VladConfig() as vlad:
                regions = None if query else vlad.regions
                return vlad_vector(features, words, intra=vlad.intra, power=vlad.power, regions=regions)
            case FisherConfig() as fisher:
                return fisher_vector(features, words, power=fisher.power)

    def _session(self) -> _Weights | None:
        """Return the weights of the words, where rows are counts."""
        if not isinstance(self.config, BowConfig):
            return None
        segments = self._collection.segments
        state = [(segment, segment.dead) for segment in segments]
        if self._weights is None or self._weights.state != state:
            self._weights = _weighed(state, self.encoder, self.frequencies or self.word_frequencies())
        return self._weights

    def word_frequencies(self) -> Frequencies | None:
        """See `CandidateIndex.word_frequencies`."""
        if not (isinstance(self.config, BowConfig) and self.config.idf):
            return None
        self._collection.flush()
        words: Any = self.encoder
        having = np.zeros(words.words, np.int64)
        for segment in self._collection.segments:
            for row in np.flatnonzero(segment.alive):  # one by one: a segment may be larger than memory
                having += segment.arrays["vectors"][row] > 0
        return len(self), having

    def _score(self, query: Vector, threads: int, session: _Weights | None) -> npt.NDArray[np.float32]:
        length = 1.0
        if session is not None:
            length = euclidean_length(query * session.words)
            query = (query * np.square(session.words)).astype(np.float32)
        out = []
        for number, segment in enumerate(self._collection.segments):
            scores = products(query, segment.arrays["vectors"])
            if session is not None:
                divisor = length * session.lengths[number]
                scores = (scores / np.where(divisor > 0, divisor, 1)).astype(np.float32)
            scores[~segment.alive] = 0
            out.append(scores)
        return np.concatenate(out)


@dataclass(frozen=True)
class _Weights:
    """What depends on the living images: valid for these segments with so many dead rows each."""

    state: list[tuple[Segment, int]]
    words: npt.NDArray[np.float64]  # (W,)
    lengths: list[npt.NDArray[np.float64]]  # of the weighed rows of each segment, (n,)


def _weighed(state: list[tuple[Segment, int]], codebook: Any, frequencies: Frequencies | None) -> _Weights:
    weights = np.ones(codebook.words) if frequencies is None else inverse_document_frequency(*frequencies)
    lengths = [
        np.array([euclidean_length(row * weights) for row in segment.arrays["vectors"]]) for segment, _ in state
    ]
    return _Weights(state, weights, lengths)


def _length(kind: DenseKind, encoder: Codebook | Mixture) -> int:
    """Return the components of a vector."""
    if isinstance(encoder, Mixture):
        return 2 * encoder.means.size
    return encoder.words if kind == "bow" else encoder.centroids.size
