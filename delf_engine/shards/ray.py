"""Shards on Ray: parts as tasks, started again where a node dies, and searches over actors that hold parts.

Whatever dies, the result is the same: a part is there once or not at all, and an actor that is started again opens
the same parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from delf_engine.engine import EngineReader
from delf_engine.engine.directory import Words
from delf_engine.engine.state import load_extractor
from delf_engine.errors import ConfigError
from delf_engine.index import Encoder
from delf_engine.reranking.candidates import FeatureSource, Shortlist, reader
from delf_engine.shards.collection import HeldState
from delf_engine.shards.making import extract_part, index_part, words_of
from delf_engine.shards.parts import Part, Stage, find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.shards.reranking import plan_reranking, rerank_part
from delf_engine.shards.searching import HeldParts

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
    return _all(ray, [task.remote(where.everywhere, stage, part, words) for part in range(plan.parts)])


def rerank_parts(
    place: str | os.PathLike[str],
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    out: str | os.PathLike[str],
    *,
    top_n: int | None = None,
    seed: int = 0,
    distances: bool = False,
    cpus: float = 1,
) -> dict[str, Any]:
    """Re-rank shortlists of images of a place, each pair where the features of its candidate lie.

    The file is that of `write_rankings` for what `Engine.rerank_many` returns of one engine of all parts, to the
    bit, for any number of parts and nodes. What is verified of a part stays in ``reranked/`` of the place: after
    the driver has died the same call verifies only the others. Errors are those of `rerank_batch`,
    `write_rankings` and `index_part`; a `ConfigError`, too, if the profile stops re-ranking early.

    Parameters
    ----------
    place : path or address
        Of a plan whose parts are extracted; all nodes reach it.
    queries : store, mapping or function
        Features of each query by its id; those without are not re-ranked.
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Ids of the plan, best first; those without features stay behind all others.
    out : path
        Of the rankings, in a format of `write_rankings` but ``.npy``.
    top_n, seed, distances
        As in `Engine.rerank_many`.
    cpus : float
        That a task takes.

    Returns
    -------
    dict
        ``out``; counts of ``queries``, of ``pairs`` to verify, of those ``verified``, as others have no features,
        of ``parts`` that hold candidates, and of these those that were ``done`` by this call.
    """
    ray, where = _ray(), Place(place)
    options: dict[str, Any] = {"top_n": top_n, "seed": seed, "distances": distances, "workers": max(1, int(cpus))}
    of, read = plan_reranking(where, queries, shortlists, **options), reader(queries)
    given = {query: ray.put(read(query)) for query in of.heads}
    task = partial(ray.remote(num_cpus=cpus, max_retries=_RETRIES)(_verified).remote, where.everywhere, of.stage)
    waiting = [
        task(part, lists, {query: given[query] for query in lists}, of.options) for part, lists in of.by_part()
    ]
    return of.merge(_all(ray, waiting), out)


class Searcher(EngineReader):
    """What an engine answers, of parts that are searched and verified in actors of Ray that map them into memory.

    Results of all its methods are those of one engine of all parts, to the bit, for any number of actors;
    `rerank_parts` is for more than a few thousand shortlists. Fine evidence needs photographs that this machine
    can read. Actors and nodes that die are replaced.

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
        If Ray is not installed, `actors` is out of range, or the index is of kind "kdtree" or "ivf". Searches
        raise it if candidates are "fused", or the profile stops re-ranking early.
    FormatError
        If parts are missing, which are named.
    MismatchError
        If a part was made by another model, other words or other options.
    """

    def __init__(
        self, place: str | os.PathLike[str], *, actors: int, codebook: Words | None = None, cpus: float = 1
    ) -> None:
        ray, where = _ray(), Place(place)
        plan = read_plan(where)
        if plan.engine.index in ("kdtree", "ivf"):
            raise ConfigError(
                f"{where}: parts of a {plan.engine.index} index are not searched by themselves; merge them"
            )
        if not 1 <= actors <= plan.parts:
            raise ConfigError(f"actors must be from 1 to the number of parts, {plan.parts}; got {actors}")
        words = words_of(where, plan, codebook)
        for part in find_parts(where, "index", range(plan.parts)):
            part.check(where, plan.index_made_by(words))
        holders = _Actors(ray, where, np.array_split(np.arange(plan.parts), actors), words, cpus)
        manifest = plan.engine.model_copy(update={"codebook": None if words is None else words.hash})
        super().__init__(HeldState(where.everywhere, manifest, words, holders, plan.parts))


class _Actors:
    """Actors that hold parts, `blocks` of their numbers."""

    def __init__(self, ray: Any, place: Place, blocks: Iterable[Any], words: Encoder | None, cpus: float) -> None:
        actor = ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=-1)(HeldParts)
        self._ray, self._words = ray, ray.put(words)  # for as long as an actor may be started again
        given = (self._words, max(1, int(cpus)))
        self._actors = [actor.remote(place.everywhere, block.tolist(), *given) for block in blocks]

    def ask(self, method: str, *arguments: Any, only: int | None = None, **options: Any) -> list[Any]:
        """Return what the method of each returns, or of the one with this number."""
        asked = self._actors if only is None else [self._actors[only]]
        return _all(self._ray, [getattr(one, method).remote(*arguments, **options) for one in asked])

    def share(self, value: Any) -> Any:
        """Put a value into Ray's store."""
        return self._ray.put(value)

    def close(self) -> None:
        """End the actors."""
        for one in self._actors:
            self._ray.kill(one)


def _verified(
    address: str, stage: str, part: int, lists: dict[str, list[str]], queries: Any, options: Any
) -> Part:
    return rerank_part(address, stage, part, lists, lambda query: _ray().get(queries[query]), options)


def _made(address: str, stage: Stage, part: int, words: Encoder | None) -> Part:
    if stage == "features":
        return extract_part(address, part, workers=0, extractor=_extractor(address))
    return index_part(address, part, codebook=words)


@lru_cache(maxsize=1)
def _extractor(address: str) -> Extractor:
    """Return the extractor of a plan, loaded once a worker process."""
    return load_extractor(read_plan(Place(address)).engine, address)


def _all(ray: Any, waiting: Sequence[Any]) -> list[Any]:
    """Return what tasks return, in their order, once all have ended; what one of them raised is raised here."""
    ray.wait(waiting, num_returns=len(waiting)) if waiting else None
    try:
        return list(ray.get(waiting))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed: pip install 'delf-engine[ray]'") from error
    return ray
