"""The plan of a collection in shards: what it is made with, and which photographs each part has.

``plan.json`` is written last and never changed; ``photographs/00003.jsonl`` has the photographs of part 3, behind
a line that says how many they are and their hash.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from delf_engine.config import Config, Profile, parse_config
from delf_engine.engine.directory import new_manifest
from delf_engine.engine.manifest import Manifest
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.index import Encoder, IndexKind
from delf_engine.model import read_checkpoint_info
from delf_engine.shards.place import Place, digest
from delf_engine.shards.sources import Photograph, photographs

VERSION = 1
_PLAN = "plan.json"
_FORMAT = "delf-engine shards"
_LEFT_OVER = re.compile(r"photographs/\d+\.jsonl|(photographs/)?\.[0-9a-f]+\.tmp")  # of a plan that was cut off
_IMAGES = 1000  # a part at most: small photographs take as long to extract as others


class Plan(Config):
    """What a collection in shards is made with.

    Attributes
    ----------
    format, version
        Format of the plan and its version.
    source : str
        Where the photographs were listed.
    profile_sha256 : str
        Hash of the profile in `engine`.
    parts, images, bytes : int
        Parts, photographs, and the bytes of those whose size is known.
    engine : Manifest
        What the merged engine says of itself: model, profile, kind of index. Its words are not chosen yet.
    """

    format: Literal["delf-engine shards"] = "delf-engine shards"
    version: Literal[1] = 1
    source: str
    profile_sha256: str
    parts: int
    images: int
    bytes: int
    engine: Manifest

    def features_made_by(self) -> dict[str, Any]:
        """Return what the features of all parts must have been made by."""
        made = self.engine
        options = hashed({"extraction": made.profile.extraction.model_dump(), "codec": made.profile.storage.codec})
        facts = {"model": made.model_identity, "dim": made.dim, "profile": options}
        return {**facts, "global head": made.global_head}

    def index_made_by(self, words: Encoder | None) -> dict[str, Any]:
        """Return what all parts of the index must have been made by."""
        kind = self.engine.index
        options = hashed(getattr(self.engine.profile, kind).model_dump())
        facts = {"codebook": None if words is None else words.hash, "index": kind, "options of the index": options}
        return {**facts, **self.features_made_by()}


def plan_shards(
    source: str | os.PathLike[str],
    place: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "delf-r18",
    profile: str | os.PathLike[str] | Profile | None = None,
    index: IndexKind | None = None,
    part_bytes: int = 256 << 20,
) -> Plan:
    """Divide photographs into parts that any machine can work on by their number.

    The photographs are listed once; what the plan says is all that other commands know of them. A plan that is
    there already is returned as it is: photographs that come later need another one.

    Parameters
    ----------
    source : path or address
        What `delf_engine.shards.sources.photographs` lists.
    place : path or address
        Where plan and parts lie: a folder that all machines see, or an address that fsspec can write.
    model, profile, index
        As in `Engine.create`. A precision of "auto" becomes what it means on this machine, so that all parts are
        made alike.
    part_bytes : int
        Photographs of so many bytes a part, at most 1,000 of them; a larger one has a part of its own.

    Raises
    ------
    ConfigError
        If an option is out of range, or an address cannot be used here.
    DataError
        If there is no photograph.
    FormatError
        If the photographs cannot be listed, the plan cannot be written, or the place is a folder with other files.
    MismatchError
        If there is a plan of other photographs or options.
    """
    if part_bytes < 1:
        raise ConfigError(f"part_bytes must be at least 1, got {part_bytes}")
    source, target = os.fspath(source), Place(place)
    if Place(source).local is not None:
        source = os.path.abspath(source)
    engine = _alike(new_manifest(model, profile, index), read_checkpoint_info(model).attention_threshold)
    if os.path.isdir(source):
        engine = engine.model_copy(update={"root": source})
    if target.read(_PLAN) is not None:
        there = read_plan(target)
        if (there.source, there.engine) != (source, engine):
            raise MismatchError(
                f"{target}: there is a plan of {there.source} with {there.engine.model_identity}, or with other "
                "options than these; choose another place"
            )
        return there
    if target.local is not None:
        _check_free(target.local)
    count = images = size = 0
    for part in _parts(photographs(source), part_bytes):
        lines = "".join(f"{json.dumps(asdict(one))}\n" for one in part).encode()
        head = {"part": count, "images": len(part), "sha256": digest(lines)}
        target.write(_list(count), f"{json.dumps(head)}\n".encode() + lines)
        count, images, size = count + 1, images + len(part), size + sum(one.bytes or 0 for one in part)
    if not count:
        raise DataError(f"{source}: no photograph there")
    made_by = hashed(engine.profile.model_dump())
    plan = Plan(source=source, profile_sha256=made_by, parts=count, images=images, bytes=size, engine=engine)
    target.write(_PLAN, json.dumps(plan.model_dump(), indent=1).encode())
    return plan


def read_plan(place: Place) -> Plan:
    """Return the plan of a place; a `FormatError` if there is none, it is damaged, or of another version."""
    name, contents = f"{place}/{_PLAN}", place.read(_PLAN)
    if contents is None:
        raise FormatError(
            f"{place}: no plan here (no {_PLAN}); check the address, or make one with `delf-engine shard plan`"
        )
    try:
        values = json.loads(contents)
        if values.get("format") != _FORMAT:
            raise FormatError(f"{name}: not the plan of shards")
        if values.get("version") != VERSION:
            raise FormatError(
                f"{name}: the plan has version {values.get('version')}, this version reads {VERSION}; make another"
            )
        plan = parse_config(Plan, values, where=name)
        # A plan of the same version whose profile this version would fill in differently makes other features.
        if plan.profile_sha256 != hashed(plan.engine.profile.model_dump()):
            raise MismatchError(f"{name}: its profile is not the one it was made with")
    except (ValueError, AttributeError, ConfigError) as error:
        raise FormatError(f"{name}: the plan is damaged: {error}") from error
    return plan


def read_part(place: Place, plan: Plan, part: int) -> tuple[str, list[Photograph]]:
    """Return the hash of a part's list, and its photographs.

    A `ConfigError` if there is no such part; a `FormatError` if the list is missing or damaged.
    """
    check_part(plan, part)
    name = _list(part)
    contents = place.read(name) or b""
    head, _, lines = contents.partition(b"\n")
    try:
        values = json.loads(head)
        if (values["part"], values["sha256"]) != (part, digest(lines)):
            raise ValueError("its checksum does not match")
        return values["sha256"], [Photograph(**json.loads(line)) for line in lines.splitlines()]
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{place}/{name}: the list of part {part} is missing or damaged: {error}") from error


def check_part(plan: Plan, part: int) -> None:
    """Raise `ConfigError` unless the plan has a part of this number."""
    if not 0 <= part < plan.parts:
        raise ConfigError(f"there is no part {part}; the plan has parts 0 to {plan.parts - 1}")


def hashed(values: Any) -> str:
    """Return a short hash of plain values."""
    return digest(json.dumps(values, sort_keys=True).encode())[:16]


def _alike(engine: Manifest, threshold: float | None) -> Manifest:
    """Return a manifest with options of extraction as an engine that is made on this machine keeps them."""
    from delf_engine.extraction.precision import resolve_precision
    from delf_engine.model.device import choose_device

    extraction = engine.profile.extraction
    if extraction.precision != "auto":
        return engine
    made_with = {
        "precision": resolve_precision("auto", choose_device("auto")),
        "min_score": max(extraction.min_score, threshold or 0.0),
    }
    profile = engine.profile.model_copy(update={"extraction": extraction.model_copy(update=made_with)})
    return engine.model_copy(update={"profile": profile})


def _check_free(folder: Path) -> None:
    """Raise a `FormatError` if there are files in a folder that no plan has left there."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    other = next((name for name in found if not _LEFT_OVER.fullmatch(name)), None)
    if other is not None:
        raise FormatError(f"{folder}: no plan here, but {other!r}; choose an empty folder, or a new one")


def _parts(found: Iterable[Photograph], part_bytes: int) -> Iterator[list[Photograph]]:
    part: list[Photograph] = []
    size = 0
    for one in found:
        if part and (len(part) == _IMAGES or size + (one.bytes or 0) > part_bytes):
            yield part
            part, size = [], 0
        part.append(one)
        size += one.bytes or 0
    if part:
        yield part


def _list(part: int) -> str:
    return f"photographs/{part:05d}.jsonl"
