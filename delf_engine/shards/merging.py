"""One engine from parts: stored features are copied, parts of the index joined; nothing is computed again."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from delf_engine.engine.directory import FEATURES, empty_index, new_directory
from delf_engine.engine.file_ids import kept_root
from delf_engine.engine.manifest import MANIFEST, write_manifest
from delf_engine.errors import ConfigError, FormatError
from delf_engine.index import AnyIndex, Encoder
from delf_engine.index.kinds import load_index
from delf_engine.shards.making import FAILURES, index_made_by, words_of
from delf_engine.shards.parts import Marker, check_made_by, marker_of, opened
from delf_engine.shards.place import Place
from delf_engine.shards.plan import Plan, check_part, hashed, read_plan
from delf_engine.storage import FeatureStore

_ORIGIN = "shards.json"  # in the engine's directory: of which plan it was merged, and which of its parts
_TOGETHER = 8  # parts of the index that are open at once
_NAMED = 10  # parts that one error names


@dataclass(frozen=True)
class MergeReport:
    """What became one engine.

    Attributes
    ----------
    directory : str
    state : "done" or "there"
        "there": an earlier call had made it.
    parts, images, failed : int
        Parts, photographs in them, and those that could not be read: ``failures.jsonl`` in the directory.
    """

    directory: str
    state: Literal["done", "there"]
    parts: int
    images: int
    failed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)


def merge_shards(
    place: str | os.PathLike[str], directory: str | os.PathLike[str], *, parts: tuple[int, int] | None = None
) -> MergeReport:
    """Make one engine of the parts of a plan; searches find what they find in one that was made on one machine.

    Parameters
    ----------
    place : path or address
        Of a plan whose parts have been extracted and indexed.
    directory : path
        Of the new engine. It is there whole or not at all; if an earlier call has made it, it is left as it is.
    parts : first, last or None
        These parts only, both included, for one of several engines; None: all.

    Raises
    ------
    ConfigError
        If there are no such parts.
    FormatError
        If parts are missing, which are named, or one is damaged; if `directory` holds something else.
    MismatchError
        If a part was made by another model, other words or other options than the others.
    """
    where, out = Place(place), Path(os.path.abspath(directory))
    plan = read_plan(where)
    first, last = (0, plan.parts - 1) if parts is None else parts
    for part in (first, last):
        check_part(plan, part)
    if first > last:
        raise ConfigError(f"parts go from the first to the last, got {first} to {last}")
    numbers = range(first, last + 1)
    words = words_of(where, plan, None)
    features, indexed = _markers(where, plan, words, numbers)
    counts = (len(features), sum(one.images for one in features), sum(one.failed for one in features))
    origin = {"plan": hashed(plan.model_dump()), "parts": [first, last]}
    if (out / MANIFEST).exists() and (out / _ORIGIN).is_file():
        if json.loads((out / _ORIGIN).read_text()) == origin:
            return MergeReport(str(out), "there", *counts)
    root = plan.engine.root
    if root is not None and os.path.isdir(root):
        root = kept_root(out, root)
    manifest = plan.engine.model_copy(update={"codebook": None if words is None else words.hash, "root": root})
    with new_directory(out) as folder:
        mark = _merge_features(where, plan, features, folder)
        index = empty_index(manifest, words)
        for start in range(0, len(indexed), _TOGETHER):
            with ExitStack() as stack:
                for marker in indexed[start : start + _TOGETHER]:
                    index.extend(_opened_index(where, plan, marker, words, stack))
                index.save(folder / manifest.index_folder)
        index.mark = mark
        index.save(folder / manifest.index_folder)
        if words is not None:
            words.save(folder / manifest.codebook_file)
        (folder / _ORIGIN).write_text(json.dumps(origin))
        write_manifest(folder, manifest)
    return MergeReport(str(out), "done", *counts)


def _markers(place: Place, plan: Plan, words: Encoder | None, numbers: range) -> tuple[list[Marker], list[Marker]]:
    """Return the markers of all parts of both stages; errors as of `merge_shards`."""
    features = {part: marker_of(place, "features", part) for part in numbers}
    _need_all(place, [part for part, found in features.items() if found is None], "extract")
    indexed = {part: marker_of(place, "index", part) for part in numbers}
    _need_all(place, [part for part, found in indexed.items() if found is None], "index")
    made_by = index_made_by(plan, words)
    whole = list(filter(None, features.values())), list(filter(None, indexed.values()))
    for own, its_index in zip(*whole, strict=True):
        check_made_by(place, own, plan.features_made_by())
        check_made_by(place, its_index, {**made_by, "features": own.folder})
    return whole


def _need_all(place: Place, missing: list[int], command: str) -> None:
    if missing:
        named = ", ".join(map(str, missing[:_NAMED]))
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise FormatError(
            f"{place}: missing are parts {named}{more}; make them with `delf-engine shard {command} --part I`"
        )


def _merge_features(place: Place, plan: Plan, markers: list[Marker], folder: Path) -> dict[str, Any]:
    """Copy the stored features of all parts; return the revision of the new store."""
    made = plan.engine
    stored = {"dim": made.dim, "codec": made.profile.storage.codec, "model": made.model_identity}
    with (
        FeatureStore.create(folder / FEATURES, **stored) as store,  # type: ignore[arg-type]
        (folder / FAILURES).open("wb") as failures,
    ):
        for marker in markers:
            with opened(place, marker) as part, FeatureStore.open(part, readonly=True) as one:
                if len(store.put_stored(one)) != marker.images:
                    raise FormatError(f"{place}: part {marker.part} holds photographs of another part, too")
                failures.write((part / FAILURES).read_bytes())
        return store.revision().to_dict()


def _opened_index(place: Place, plan: Plan, marker: Marker, words: Encoder | None, stack: ExitStack) -> AnyIndex:
    folder = stack.enter_context(opened(place, marker))
    return load_index(folder, plan.engine.index, plan.engine.profile, words, check=False)
