"""The parts themselves: features of photographs, words of several parts, and parts of the index."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.engine.catch_up import catch_up
from delf_engine.engine.directory import Words, choose_encoder, empty_index
from delf_engine.engine.state import load_extractor
from delf_engine.engine.vocabulary import train_words
from delf_engine.errors import ConfigError, FormatError, ImageError, MismatchError
from delf_engine.index import Codebook, Encoder, Mixture
from delf_engine.index.kinds import load_encoder
from delf_engine.shards.parts import (
    Marker,
    PartReport,
    check_made_by,
    commit,
    marker_of,
    needed_marker,
    opened,
    working_folder,
)
from delf_engine.shards.place import Place, is_about_the_file
from delf_engine.shards.plan import Plan, check_part, read_part, read_plan
from delf_engine.shards.sources import Photograph
from delf_engine.storage import FeatureStore
from delf_engine.support.processes import map_ordered

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

FAILURES = "failures.jsonl"
_WORDS = "words.safetensors"
_BATCH = 64  # images a transaction
_FETCHED = 16  # photographs that are on their way from a store at once


def extract_part(
    place: str | os.PathLike[str],
    part: int,
    *,
    workers: int | None = None,
    extractor: Extractor | None = None,
) -> PartReport:
    """Extract the photographs of a part, unless that has been done; of several workers on it one counts.

    Photographs that cannot be read are listed in ``failures.jsonl`` beside the features, each with its reason. A store
    that does not answer is another matter: the part is then not made, and the same call tries again.

    Parameters
    ----------
    place : path or address
        Of a plan.
    part : int
    workers : int or None
        As in `Extractor.extract_many`.
    extractor : Extractor or None
        That an earlier call has loaded; None: it is loaded as the plan says.

    Raises
    ------
    ConfigError
        If there is no such part.
    FormatError
        If the plan or the part's list is missing or damaged, or a store refuses what is read or written.
    MismatchError
        If the model is another than when the plan was made, or what is there was made with another one.
    """
    where = Place(place)
    plan = read_plan(where)
    listed, found = read_part(where, plan, part)
    made_by = {**plan.features_made_by(), "photographs": listed}
    if (there := marker_of(where, "features", part)) is not None:
        check_made_by(where, there, made_by)
        return there.report("there")
    start = time.perf_counter()
    extractor = extractor or load_extractor(plan.engine, where)
    with working_folder(where, "features", part) as (folder, name):
        failed = _extracted(plan, found, extractor, folder, workers)
        lines = "".join(f"{json.dumps({'id': one, 'reason': reason})}\n" for one, reason in failed)
        (folder / FAILURES).write_text(lines)
        counts = (len(found) - len(failed), len(failed), round(time.perf_counter() - start, 3))
        return commit(where, folder, Marker("features", part, name, {}, made_by, *counts))


def index_part(place: str | os.PathLike[str], part: int, *, codebook: Words | None = None) -> PartReport:
    """Make a part of the index from a part of the features, unless that has been done.

    Parameters
    ----------
    place : path or address
        Of a plan.
    part : int
        It has been extracted.
    codebook : Codebook, Mixture, path or None
        Words of the index. The first call puts them into the place; from then on there are no others. None: those of
        the place, else those that come with the checkpoint.

    Raises
    ------
    ConfigError
        If there is no such part, or the words do not go with the kind of index.
    FormatError
        If the part has not been extracted, or is damaged.
    MismatchError
        If the words are others than those of the place, or the part was made by another model or with other options.
    """
    where = Place(place)
    plan = read_plan(where)
    check_part(plan, part)
    features = needed_marker(where, "features", part)
    check_made_by(where, features, plan.features_made_by())
    words = words_of(where, plan, codebook)
    made_by = {**index_made_by(plan, words), "features": features.folder}
    if (there := marker_of(where, "index", part)) is not None:
        check_made_by(where, there, made_by)
        return there.report("there")
    start = time.perf_counter()
    index = empty_index(plan.engine, words)
    with opened(where, features) as stored, FeatureStore.open(stored, readonly=True) as store:
        catch_up(store, index, None)
    with working_folder(where, "index", part) as (folder, name):
        index.save(folder)
        counts = (len(index), features.failed, round(time.perf_counter() - start, 3))
        return commit(where, folder, Marker("index", part, name, {}, made_by, *counts))


def train_shard_words(
    place: str | os.PathLike[str],
    words: int,
    *,
    parts: int = 100,
    mixture: bool = False,
    per_image: int = 300,
    iterations: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Codebook | Mixture:
    """Train visual words on parts that are drawn at random; a `FormatError` if one has not been extracted.

    Parameters
    ----------
    place : path or address
        Of a plan.
    words, mixture, per_image, iterations, progress
        As in `delf_engine.engine.vocabulary.train_words`.
    parts : int
        At most so many, which are copied here if they lie in a store.
    seed : int
        Of the choice of parts and of the first words.
    """
    where = Place(place)
    plan = read_plan(where)
    if parts < 1:
        raise ConfigError(f"parts must be at least 1, got {parts}")
    drawn = sorted(random.Random(seed).sample(range(plan.parts), min(parts, plan.parts)))
    markers = [needed_marker(where, "features", part) for part in drawn]
    with ExitStack() as stack:
        stores = []
        for marker in markers:
            check_made_by(where, marker, plan.features_made_by())
            stores.append(stack.enter_context(opened(where, marker)))
        options = {"mixture": mixture, "per_image": per_image, "iterations": iterations, "progress": progress}
        return train_words(stores, words, seed=seed, **options)  # type: ignore[arg-type]


def words_of(place: Place, plan: Plan, given: Words | None) -> Encoder | None:
    """Return the words of a place, which are those given if there are none yet.

    A `MismatchError` if they are others than those given.
    """
    kind = plan.engine.index
    contents = place.read(_WORDS)
    if contents is None:
        words = choose_encoder(kind, given, plan.engine.model, plan.engine.dim)
        if words is None:
            return None
        with _file() as path:
            words.save(path)
            if place.create(_WORDS, path.read_bytes()):
                return words
        contents = place.read(_WORDS) or b""
    with _file() as path:
        path.write_bytes(contents)
        try:
            kept = load_encoder(kind, path)
        except FormatError as error:
            raise FormatError(f"{place}/{_WORDS}: damaged: {error}") from error
    if given is not None:
        other = choose_encoder(kind, given, plan.engine.model, plan.engine.dim)
        if other is not None and other.hash != kept.hash:
            raise MismatchError(
                f"{place}: its words are {kept.hash[:8]}, not {other.hash[:8]}: one collection has one codebook. Leave "
                f"it out, or delete {_WORDS} and index/ there to make all parts of the index again"
            )
    return kept


def index_made_by(plan: Plan, words: Encoder | None) -> dict[str, object]:
    """Return what all parts of the index must have been made by."""
    return {**plan.index_made_by(), "codebook": None if words is None else words.hash}


def _extracted(
    plan: Plan, found: Sequence[Photograph], extractor: Extractor, folder: Path, workers: int | None
) -> list[tuple[str, str]]:
    """Put the features of photographs into a new store in `folder`; return ids and reasons of those that failed."""
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

    stored = {
        "dim": plan.engine.dim,
        "codec": plan.engine.profile.storage.codec,
        "model": plan.engine.model_identity,
    }
    stream = extractor.extract_many(sources(), workers=workers, on_error=left_out)
    with FeatureStore.create(folder, **stored) as store, closing(stream):
        features = ((waiting.popleft(), item) for _, item in stream)
        while batch := list(islice(features, _BATCH)):
            store.put_many(batch)
    return failed


def _fetched(found: Sequence[Photograph]) -> Iterator[tuple[Photograph, str | bytes | ImageError]]:
    """Yield photographs with their path, their bytes from a store, or what is wrong with them."""
    with ThreadPoolExecutor(_FETCHED, thread_name_prefix="fetch") as pool:
        with closing(map_ordered(lambda one: pool.submit(_fetch, one), found, _FETCHED)) as stream:
            for one, future in stream:
                yield one, future.result()


def _fetch(one: Photograph) -> str | bytes | ImageError:
    place = Place(one.address)
    if place.local is not None:
        return str(place.local)
    try:
        contents = place.read("", size=one.bytes)
    except FormatError as error:
        if is_about_the_file(error.__cause__):
            return ImageError(one.id, str(error))
        raise
    return ImageError(one.id, f"{one.address}: no such file") if contents is None else contents


@contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="delf-shard-") as folder:
        yield Path(folder, _WORDS)
