"""Re-ranking by parts: each pair is verified where the features of its candidate lie.

What is found in a part is a part, too: ``reranked/NAME/00003.json`` marks verifications by query. NAME is a hash
of all that they depend on, so that the same call goes on from what is there, and another one begins anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delf_engine.engine.pairs import calibration_of
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch, write_rankings
from delf_engine.reranking.candidates import Entries, FeatureSource, Shortlist, rank_entries, reader
from delf_engine.reranking.journal import query_key
from delf_engine.reranking.rerank import checked_entries
from delf_engine.shards.parts import Part, commit, find_part, find_parts, working_folder
from delf_engine.shards.place import Place
from delf_engine.shards.plan import Plan, check_part, hashed, read_part, read_plan
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification

_FOUND = "verified.jsonl"  # a line a query: verifications by candidate
_AT = "queries.json"  # where the line of each query begins


@dataclass(frozen=True)
class Reranking:
    """Shortlists to re-rank by parts of a `stage`; `heads` are candidates to verify, of queries with features."""

    place: Place
    plan: Plan
    stage: str
    options: RerankOptions
    entries: dict[str, Entries]
    heads: dict[str, list[str]]

    def by_part(self, only: int | None = None) -> Iterator[tuple[int, dict[str, list[str]]]]:
        """Yield parts that hold candidates, or `only` one, with these by query; one list is read at a time."""
        asked: dict[str, list[str]] = {}
        for query, ids in self.heads.items():
            for name in ids:
                asked.setdefault(name, []).append(query)
        for part in range(self.plan.parts) if only is None else [only]:
            here: dict[str, list[str]] = {}
            for photograph in read_part(self.place, self.plan, part)[1]:
                for query in asked.get(photograph.id, ()):
                    here.setdefault(query, []).append(photograph.id)
            if here:
                yield part, here

    def merge(self, parts: Sequence[Part], out: str | os.PathLike[str]) -> dict[str, Any]:
        """Write what all parts have found as one file of rankings; return counts of it."""
        with ExitStack() as stack:
            folders = [stack.enter_context(part.opened(self.place)) for part in parts]
            write_rankings(out, _Rankings(self, folders))
        pairs, verified = sum(map(len, self.heads.values())), sum(part.images for part in parts)
        counts = {"queries": len(self.entries), "pairs": pairs, "verified": verified, "parts": len(parts)}
        return {"out": os.fspath(out), **counts, "done": sum(part.state == "done" for part in parts)}


def rerank_shards(
    place: str | os.PathLike[str],
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    out: str | os.PathLike[str],
    *,
    part: int | None = None,
    top_n: int | None = None,
    seed: int = 0,
    distances: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Re-rank shortlists of images of a place on this machine: one part, or all that are not there, and the file.

    So a scheduler verifies all parts at once, by their numbers, and calls it once more for the file.

    Parameters
    ----------
    part : int or None
        Verify the candidates of this part only, and write no file; ``state`` says "none" if it holds none.
    workers : int or None
        As in `RerankOptions`.
    place, queries, shortlists, out, top_n, seed, distances
        As in `delf_engine.shards.ray.rerank_parts`, and so are errors and what is returned, without `part`.
    """
    where = Place(place)
    of = plan_reranking(where, queries, shortlists, top_n=top_n, seed=seed, distances=distances, workers=workers)
    if part is not None:
        check_part(of.plan, part)
    done = [rerank_part(where.everywhere, of.stage, *one, queries, of.options) for one in of.by_part(part)]
    if part is None:
        return of.merge(done, out)
    return done[0].to_dict() if done else {"stage": of.stage, "part": part, "state": "none"}


def plan_reranking(
    place: Place, queries: FeatureSource, shortlists: Mapping[str, Shortlist], **given: Any
) -> Reranking:
    """Return what is to be done with options as `RerankOptions.of` takes them; errors as of `rerank_parts`."""
    plan, read = read_plan(place), reader(queries)
    options = RerankOptions.of(plan.engine.profile, on_missing="ignore", **given).in_parts()
    entries = checked_entries(shortlists, options)
    heads, keys = {}, {}
    for query, found in entries.items():
        if (features := read(query)) is not None:
            heads[query] = [name for name, _ in found[: options.reranking.top_n]]
            keys[query] = query_key(heads[query], features)
    depends = [options.verification.model_dump(mode="json"), options.ranking.exponent, options.seed, keys]
    return Reranking(place, plan, f"reranked/{hashed(depends)}", options, entries, heads)


def rerank_part(
    address: str,
    stage: str,
    part: int,
    lists: Mapping[str, Sequence[str]],
    queries: FeatureSource,
    options: RerankOptions,
) -> Part:
    """Verify the candidates of a part, by query, unless that has been done; errors are those of `index_part`."""
    where = Place(address)
    plan = read_plan(where)
    features = find_parts(where, "features", [part])[0].check(where, plan.features_made_by())
    made_by = {**plan.features_made_by(), "features": features.folder}
    if (there := find_part(where, stage, part)) is not None:
        return there.check(where, made_by)
    start = time.perf_counter()
    with working_folder(where, stage, part) as (folder, name):
        with features.opened(where, check=False) as stored, FeatureStore.open(stored, readonly=True) as store:
            rankings = rerank_batch(queries, lists, store, options)
        at, verified = {}, 0
        with (folder / _FOUND).open("wb") as file:
            for query, hits in rankings.items():
                found = {hit.id: hit.verification.to_dict() for hit in hits if hit.verification is not None}
                at[query], verified = file.tell(), verified + len(found)
                file.write(json.dumps(found, separators=(",", ":")).encode() + b"\n")
        (folder / _AT).write_text(json.dumps(at))
        counts = (verified, sum(map(len, lists.values())) - verified, round(time.perf_counter() - start, 3))
        return commit(where, folder, Part(stage, part, name, made_by, *counts, {}))


class _Rankings(Mapping[str, list[RankedCandidate]]):
    """Rankings by query, each made of what parts have found when it is asked for: memory holds one."""

    def __init__(self, reranking: Reranking, folders: Sequence[Path]) -> None:
        self._of = reranking
        engine = reranking.plan.engine
        calibration = calibration_of(engine.model, engine.profile, engine.model_identity)
        self._judged = calibration.judged if calibration is not None else lambda verification: verification
        self._at: dict[str, list[tuple[Path, int]]] = {}
        for folder in folders:
            for query, at in json.loads((folder / _AT).read_text()).items():
                self._at.setdefault(query, []).append((folder / _FOUND, at))

    def __getitem__(self, query: str) -> list[RankedCandidate]:
        entries, verified = self._of.entries[query], dict[str, Verification]()
        for path, at in self._at.get(query, ()):
            with path.open("rb") as file:
                file.seek(at)
                found = json.loads(file.readline())
            verified |= {name: self._judged(Verification.from_dict(each)) for name, each in found.items()}
        return rank_entries(entries, verified, self._of.options.ranking)

    def __iter__(self) -> Iterator[str]:
        return iter(self._of.entries)

    def __len__(self) -> int:
        return len(self._of.entries)
