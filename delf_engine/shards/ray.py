"""Shards on Ray: parts as tasks, started again where a node dies, and searches over actors that hold parts.

Whatever dies, the result is the same: a part is there once or not at all, and an actor that is started again opens
the same parts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delf_engine.engine.directory import Words
from delf_engine.engine.state import load_extractor
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index import Encoder
from delf_engine.index.contract import Found, check_top_k
from delf_engine.shards.making import extract_part, index_part, words_of
from delf_engine.shards.merging import joined_index
from delf_engine.shards.parts import Part, Stage, find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

_RETRIES = 5  # of a part whose worker or node has died


def make_parts(
    place: str | os.PathLike[str], stage: Stage, *, codebook: Words | None = None, cpus: float = 1, gpus: float = 0
) -> list[Part]:
    """Make all parts of a stage that are not there, each as a task of Ray; nodes may come and go.

    Parameters
    ----------
    place : path or address
        Of a plan; all nodes reach it.
    stage : "features" or "index"
    codebook : Codebook, Mixture, path or None
        As in `delf_engine.shards.index_part`.
    cpus, gpus : float
        That a task takes.

    Raises
    ------
    ConfigError
        If Ray is not installed.
    DelfEngineError
        That a part raised, once all others have been tried; see `extract_part` and `index_part`.
    """
    ray = _ray()
    where = Place(place)
    plan = read_plan(where)
    words = ray.put(words_of(where, plan, codebook) if stage == "index" else None)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_made)
    waiting = [task.remote(where.address, stage, part, words) for part in range(plan.parts)]
    ray.wait(waiting, num_returns=len(waiting))
    try:
        parts: list[Part] = ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return parts


class Searcher:
    """Searches the parts of an index in actors of Ray, each of which maps some of them into memory.

    Results are those of one index of all parts, to the bit, for any number of actors.

    Parameters
    ----------
    place : path or address
        Of a plan whose parts are indexed; all nodes reach it.
    actors : int
        At most one a part.
    codebook : Codebook, Mixture, path or None
        As in `delf_engine.shards.index_part`.
    cpus : float
        That an actor takes.

    Raises
    ------
    ConfigError
        If Ray is not installed, `actors` is out of range, or what an image scores in this kind of index depends on
        others: idf, "kdtree" and "ivf".
    FormatError
        If parts are missing, which are named.
    MismatchError
        If a part was made by another model, other words or other options.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, actors: int, codebook: Words | None = None, cpus: float = 1
    ) -> None:
        self._ray = _ray()
        where = Place(place)
        plan = read_plan(where)
        kind = plan.engine.index
        if kind in ("kdtree", "ivf") or getattr(getattr(plan.engine.profile, kind), "idf", False):
            raise ConfigError(
                f"{where}: scores of this index of kind {kind!r} depend on all images; merge the parts"
            )
        if not 1 <= actors <= plan.parts:
            raise ConfigError(f"actors must be from 1 to the number of parts, {plan.parts}; got {actors}")
        words = words_of(where, plan, codebook)
        for part in find_parts(where, "index", range(plan.parts)):
            part.check(where, plan.index_made_by(words))
        self._words = self._ray.put(words)  # for as long as an actor may be started again
        actor = self._ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=-1)(_Shard)
        held = [block.tolist() for block in np.array_split(np.arange(plan.parts), actors)]
        self._actors = [actor.remote(where.address, block, self._words) for block in held]
        self._images = sum(self._ray.get([one.images.remote() for one in self._actors]))

    def __len__(self) -> int:
        return int(self._images)

    def search_many(self, queries: Iterable[LocalFeatures], top_k: int) -> list[Found]:
        """Return for each query the ids of the most similar images, best first, and their scores, (K,) float32.

        Errors are those of `AsmkIndex.search_many`.
        """
        several = list(queries)
        given = self._ray.put(several)
        try:
            found = self._ray.get([one.search_many.remote(given, top_k) for one in self._actors])
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return [_best([answers[i] for answers in found], check_top_k(top_k)) for i in range(len(several))]

    def close(self) -> None:
        """End the actors."""
        for one in self._actors:
            self._ray.kill(one)


class _Shard:
    """Some parts of an index, in an actor."""

    def __init__(self, address: str, numbers: list[int], words: Encoder | None) -> None:
        where = Place(address)
        plan = read_plan(where)
        self._folder = tempfile.TemporaryDirectory(prefix="delf-searcher-")
        parts = find_parts(where, "index", numbers)
        self._index = joined_index(where, plan.engine, parts, words, Path(self._folder.name))

    def images(self) -> int:
        return len(self._index)

    def search_many(self, queries: list[LocalFeatures], top_k: int) -> list[Found]:
        return self._index.search_many(queries, top_k)


def _best(answers: list[Found], top_k: int) -> Found:
    """Return the best of what several shards found; among equal scores the order of the parts holds."""
    ids = [image_id for names, _ in answers for image_id in names]
    scores = np.concatenate([values for _, values in answers])
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [ids[int(row)] for row in order], scores[order]


def _made(address: str, stage: Stage, part: int, words: Encoder | None) -> Part:
    if stage == "features":
        return extract_part(address, part, workers=0, extractor=_extractor(address))
    return index_part(address, part, codebook=words)


@lru_cache(maxsize=1)
def _extractor(address: str) -> Extractor:
    """Return the extractor of a plan, loaded once a worker process."""
    return load_extractor(read_plan(Place(address)).engine, address)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'delf-engine[ray]'") from error
    return ray
