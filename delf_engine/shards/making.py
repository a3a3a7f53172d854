"""The parts themselves: features of photographs, and parts of the index."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.engine.catch_up import catch_up
from delf_engine.engine.directory import Words, choose_encoder, empty_index, new_store
from delf_engine.engine.state import load_extractor
from delf_engine.errors import FormatError, ImageError, MismatchError
from delf_engine.index import Encoder
from delf_engine.shards.parts import Part, commit, find_part, find_parts, working_folder
from delf_engine.shards.place import Place, is_refused
from delf_engine.shards.plan import Plan, read_part, read_plan
from delf_engine.shards.sources import Photograph
from delf_engine.storage import FeatureStore
from delf_engine.support.processes import map_ordered

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

FAILURES = "failures.jsonl"
_WORDS = "words.sha256"
_BATCH = 64  # images a transaction
_FETCHED = 16  # photographs that are on their way from a store at once


def extract_part(
    place: str | os.PathLike[str], part: int, *, workers: int | None = None, extractor: Extractor | None = None
) -> Part:
    """Extract the photographs of a part, unless that has been done; of several workers on it one counts.

    Photographs that cannot be read are listed in ``failures.jsonl`` beside the features, each with its reason. A
    store that does not answer is another matter: the part is not made, and another call tries again.

    Parameters
    ----------
    place : path or address
        Of a plan.
    part : int
        From 0 on.
    workers : int or None
        As in `Extractor.extract_many`.
    extractor : Extractor or None
        One that is loaded as the plan says; None: it is loaded.

    Raises
    ------
    ConfigError
        If there is no such part.
    FormatError
        If plan or part are damaged, or a store cannot be read or written.
    MismatchError
        If the model is another now, or what is there was made by another one.
    """
    where = Place(place)
    plan = read_plan(where)
    listed, found = read_part(where, plan, part)
    made_by = {**plan.features_made_by(), "photographs": listed}
    if (there := find_part(where, "features", part)) is not None:
        return there.check(where, made_by)
    start = time.perf_counter()
    extractor = extractor or load_extractor(plan.engine, where)
    with working_folder(where, "features", part) as (folder, name):
        failed = _extracted(plan, found, extractor, folder, workers)
        lines = "".join(f"{json.dumps({'id': one, 'reason': reason})}\n" for one, reason in failed)
        (folder / FAILURES).write_text(lines)
        counts = (len(found) - len(failed), len(failed), round(time.perf_counter() - start, 3))
        return commit(where, folder, Part("features", part, name, made_by, *counts, {}))


def index_part(place: str | os.PathLike[str], part: int, *, codebook: Words | None = None) -> Part:
    """Make a part of the index from a part of the features, unless that has been done.

    Parameters
    ----------
    place : path or address
        Of a plan.
    part : int
        From 0 on; it has been extracted.
    codebook : Codebook, Mixture, path or None
        Words of the index: those of the first call for all others. None: those that come with the checkpoint.

    Raises
    ------
    ConfigError
        If the words do not go with the kind of index.
    FormatError
        If the part has not been extracted, or is damaged.
    MismatchError
        If the words are others than those of the place, or the part was made by another model or with other
        options.
    """
    where = Place(place)
    plan = read_plan(where)
    features = find_parts(where, "features", [part])[0].check(where, plan.features_made_by())
    words = words_of(where, plan, codebook)
    made_by = {**plan.index_made_by(words), "features": features.folder}
    if (there := find_part(where, "index", part)) is not None:
        return there.check(where, made_by)
    start = time.perf_counter()
    index = empty_index(plan.engine, words)
    with features.opened(where) as stored, FeatureStore.open(stored, readonly=True) as store:
        catch_up(store, index, None)
    with working_folder(where, "index", part) as (folder, name):
        index.save(folder)
        counts = (len(index), features.failed, round(time.perf_counter() - start, 3))
        return commit(where, folder, Part("index", part, name, made_by, *counts, {}))


def words_of(place: Place, plan: Plan, given: Words | None) -> Encoder | None:
    """Return the words of an index; a `MismatchError` if they are others than the first that a place was given."""
    words = choose_encoder(plan.engine.index, given, plan.engine.model, plan.engine.dim)
    if words is None:
        return None
    kept = (place.read(_WORDS) or b"").decode()
    if kept != words.hash and not place.create(_WORDS, words.hash.encode()):
        kept = (place.read(_WORDS) or b"").decode()
        raise MismatchError(
            f"{place}: its parts are indexed by words {kept[:8]}, not {words.hash[:8]}: one collection has one "
            f"codebook. Give that one, or delete {_WORDS} and index/ there, and index all parts again"
        )
    return words


def _extracted(
    plan: Plan, found: Sequence[Photograph], extractor: Extractor, folder: Path, workers: int | None
) -> list[tuple[str, str]]:
    """Put features of photographs into a new store in `folder`; return ids and reasons of those that failed."""
    failed: list[tuple[str, str]] = []
    waiting: deque[str] = deque()  # results and errors come in the order of the sources

    def sources() -> Iterator[str | bytes]:
        for one, contents in _fetched(found):
            if isinstance(contents, ImageError):
                failed.append((one.id, contents.reason))
            else:
                waiting.append(one.id)
                yield contents

    def left_out(_: object, error: ImageError) -> None:
        failed.append((waiting.popleft(), error.reason))

    stream = extractor.extract_many(sources(), workers=workers, on_error=left_out)
    with new_store(folder, plan.engine) as store, closing(stream):
        features = ((waiting.popleft(), item) for _, item in stream)
        while batch := list(islice(features, _BATCH)):
            store.put_many(batch)
    return failed


def _fetched(found: Sequence[Photograph]) -> Iterator[tuple[Photograph, str | bytes | ImageError]]:
    """Yield photographs with their path, their bytes from a store, or what is wrong with them."""
    with (
        ThreadPoolExecutor(_FETCHED, thread_name_prefix="fetch") as pool,
        closing(map_ordered(lambda one: pool.submit(_fetch, one), found, _FETCHED)) as stream,
    ):
        for one, future in stream:
            yield one, future.result()


def _fetch(one: Photograph) -> str | bytes | ImageError:
    place = Place(one.address)
    if place.local is not None:
        return str(place.local)
    try:
        contents = place.read("", size=one.bytes)
    except FormatError as error:
        if isinstance(error.__cause__, EOFError) or is_refused(error.__cause__):  # others may well come
            return ImageError(one.id, str(error))
        raise
    return ImageError(one.id, f"{one.address}: no such file") if contents is None else contents
