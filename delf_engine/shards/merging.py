"""One engine from parts: stored features are copied, parts of the index joined; nothing is computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from delf_engine.engine.directory import FEATURES, Words, empty_index, new_directory, new_store
from delf_engine.engine.file_ids import kept_root
from delf_engine.engine.manifest import Manifest, write_manifest
from delf_engine.errors import ConfigError, FormatError
from delf_engine.index import AnyIndex, Encoder
from delf_engine.index.kinds import load_index
from delf_engine.shards.making import FAILURES, words_of
from delf_engine.shards.parts import Part, find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import Plan, check_part, hashed, read_plan
from delf_engine.storage import FeatureStore

_ORIGIN = "shards.json"  # in the engine's directory: of which plan it was merged, and which of its parts
_TOGETHER = 8  # parts of the index that are open at once


def merge_shards(
    place: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    codebook: Words | None = None,
    parts: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Make one engine of the parts of a plan; searches find what they find in one that was made on one machine.

    Parameters
    ----------
    place : path or address
        Of a plan whose parts have been extracted and indexed.
    directory : path
        Of the new engine, which is there whole or not at all. If an earlier call has made it, it is left as it is.
    codebook : Codebook, Mixture, path or None
        As in `index_part`.
    parts : first, last or None
        These parts only, both included, for one of several engines; None: all.

    Returns
    -------
    dict
        ``state``, "done" or "there"; ``parts``; ``images``; ``failed``, photographs that could not be read, with
        their reasons in ``failures.jsonl`` in the directory.

    Raises
    ------
    ConfigError
        If there are no such parts.
    FormatError
        If parts are missing, which are named, or one is damaged; if `directory` holds something else.
    MismatchError
        If a part was made by another model, other words or other options.
    """
    where, out = Place(place), Path(os.path.abspath(directory))
    plan = read_plan(where)
    first, last = (0, plan.parts - 1) if parts is None else parts
    for part in (first, last):
        check_part(plan, part)
    if first > last:
        raise ConfigError(f"parts go from the first to the last, got {first} to {last}")
    words = words_of(where, plan, codebook)
    features = find_parts(where, "features", range(first, last + 1))
    indexed = find_parts(where, "index", range(first, last + 1))
    made_by = plan.index_made_by(words)
    for own, its_index in zip(features, indexed, strict=True):
        own.check(where, plan.features_made_by())
        its_index.check(where, {**made_by, "features": own.folder})
    images, failed = sum(part.images for part in features), sum(part.failed for part in features)
    report = {"directory": str(out), "parts": len(features), "images": images, "failed": failed}
    origin = json.dumps({"plan": hashed(plan.model_dump()), "first": first, "last": last})
    if (out / _ORIGIN).is_file() and (out / _ORIGIN).read_text() == origin:
        return {"state": "there", **report}
    root = plan.engine.root
    if root is not None and os.path.isdir(root):
        root = kept_root(out, root)
    manifest = plan.engine.model_copy(update={"codebook": None if words is None else words.hash, "root": root})
    with new_directory(out) as folder:
        index = joined_index(where, manifest, indexed, words, folder / manifest.index_folder)
        index.mark = _merge_features(where, plan, features, folder)
        index.save(folder / manifest.index_folder)
        if words is not None:
            words.save(folder / manifest.codebook_file)
        (folder / _ORIGIN).write_text(origin)
        write_manifest(folder, manifest)
    return {"state": "done", **report}


def joined_index(
    place: Place, manifest: Manifest, parts: Sequence[Part], words: Encoder | None, folder: Path
) -> AnyIndex:
    """Join parts of an index in their order, a few at a time, in a new folder; return it, mapped from there."""
    index = empty_index(manifest, words)
    for start in range(0, len(parts), _TOGETHER):
        with ExitStack() as stack:
            for part in parts[start : start + _TOGETHER]:
                opened = stack.enter_context(part.opened(place))
                index.extend(load_index(opened, manifest.index, manifest.profile, words, check=False))
            index.save(folder)
    return index


def _merge_features(place: Place, plan: Plan, parts: list[Part], folder: Path) -> dict[str, Any]:
    """Copy the stored features of all parts; return the revision of the new store."""
    with new_store(folder / FEATURES, plan.engine) as store, (folder / FAILURES).open("wb") as failures:
        for part in parts:
            with part.opened(place) as opened, FeatureStore.open(opened, readonly=True) as one:
                if len(store.put_stored(one)) != part.images:
                    raise FormatError(f"{place}: part {part.part} holds photographs of another part, too")
                failures.write((opened / FAILURES).read_bytes())
        return store.revision().to_dict()
