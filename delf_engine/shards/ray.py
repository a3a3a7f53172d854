"""Shards on Ray: parts as tasks, started again where a node dies, and searches over actors that hold parts.

Whatever dies, the result is the same: a part is there once or not at all, and an actor that is started again opens
the same parts.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from delf_engine.engine.directory import Words, empty_index
from delf_engine.engine.pairs import calibration_of
from delf_engine.engine.results import SearchResult
from delf_engine.engine.searching import SearchOptions
from delf_engine.engine.state import load_extractor
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index import Encoder
from delf_engine.index.contract import Found, check_top_k
from delf_engine.reranking import RerankOptions, rank_verified
from delf_engine.reranking.candidates import FeatureSource, Shortlist, reader
from delf_engine.shards.making import extract_part, index_part, words_of
from delf_engine.shards.parts import Part, Stage, find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.shards.reranking import plan_reranking, rerank_part
from delf_engine.shards.searching import HeldParts, added, merged

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


class Searcher:
    """Searches the parts of an index in actors of Ray, each of which maps some of them into memory.

    Results are those of one engine of all parts, to the bit, for any number of actors.

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
        If Ray is not installed, `actors` is out of range, or the index is of kind "kdtree" or "ivf".
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
        if plan.engine.index in ("kdtree", "ivf"):
            raise ConfigError(
                f"{where}: parts of a {plan.engine.index} index are not searched by themselves; merge them"
            )
        if not 1 <= actors <= plan.parts:
            raise ConfigError(f"actors must be from 1 to the number of parts, {plan.parts}; got {actors}")
        words = words_of(where, plan, codebook)
        for part in find_parts(where, "index", range(plan.parts)):
            part.check(where, plan.index_made_by(words))
        self._empty = empty_index(plan.engine, words)  # makes queries ready, once for all actors
        calibration = calibration_of(plan.engine.model, plan.engine.profile, plan.engine.model_identity)
        workers = max(1, int(cpus))
        self._options = partial(RerankOptions.of, plan.engine.profile, calibration=calibration, workers=workers)
        self._words = self._ray.put(words)  # for as long as an actor may be started again
        actor = self._ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=-1)(HeldParts)
        held = [block.tolist() for block in np.array_split(np.arange(plan.parts), actors)]
        self._actors = [actor.remote(where.everywhere, block, self._words, workers) for block in held]
        counts = _all(self._ray, [one.counts.remote() for one in self._actors])
        self._images = sum(images for images, _ in counts)
        frequencies = added([each for _, each in counts])
        self._frequencies = frequencies and self._ray.put(frequencies)

    def __len__(self) -> int:
        return int(self._images)

    def search_many(self, queries: Iterable[LocalFeatures], top_k: int) -> list[Found]:
        """Return for each query the ids of the most similar images, best first, and their scores, (K,) float32.

        Errors are those of `AsmkIndex.search_many`.
        """
        return merged(self._found(queries, check_top_k(top_k)), top_k)

    def search(
        self, query: LocalFeatures, *, top_k: int = 10, top_n: int | None = None, seed: int = 0
    ) -> SearchResult:
        """Search, and verify the best where their features lie: what `Engine.search` returns for features.

        Parameters and errors are as there. A `ConfigError`, too, if the profile stops re-ranking early.
        """
        SearchOptions(top_k, top_n)  # checks them
        options = self._options(top_n=top_n or None, seed=seed).in_parts()
        count = options.reranking.top_n if top_n is None else top_n
        found = self._found([query], max(top_k, count))
        ((ids, scores),) = merged(found, max(top_k, count))
        head = set(ids[:count])
        waiting = []
        for one, ((names, _),) in zip(self._actors, found, strict=True):
            if held := [name for name in names if name in head]:
                waiting.append(one.verify.remote(query, held, options))
        verified = ChainMap(*_all(self._ray, waiting))
        hits = rank_verified(list(zip(ids, scores.tolist(), strict=True)), verified, ranking=options.ranking)
        return SearchResult(repr(query), tuple(hits[:top_k]), query)

    def close(self) -> None:
        """End the actors."""
        for one in self._actors:
            self._ray.kill(one)

    def _found(self, queries: Iterable[LocalFeatures], top_k: int) -> list[list[Found]]:
        """Return what each actor finds for each query."""
        ready = self._empty.encoded(queries)
        encoded = self._ray.put(ready) if len(ready) > 1 else ready  # one travels faster with the call
        return _all(self._ray, [one.search.remote(encoded, top_k, self._frequencies) for one in self._actors])


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
