"""Parts of a stage: made in a folder of their own, and there from the moment their marker is, which comes last.

The marker ``STAGE/00003.json`` names the folder, ``STAGE/00003-TOKEN``, the size and the hash of every file in it,
and what it was made by. A second worker on the same part finds the marker, or its own is refused: of two folders one
counts. What a killed worker has left is a folder that no marker names.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from delf_engine.errors import FormatError, MismatchError
from delf_engine.shards.place import Place, sealed
from delf_engine.support.files import system_errors

Stage: TypeAlias = Literal["features", "index"]

VERSION = 1
_FORMAT = "delf-engine part"
_DONE = {"features": "extracted", "index": "indexed"}


@dataclass(frozen=True)
class PartReport:
    """What was done for one part.

    Attributes
    ----------
    stage : "features" or "index"
    part : int
    state : "done" or "there"
        "there": another worker, or an earlier call, had made it.
    images, failed : int
        Photographs in it, and those that could not be read.
    bytes : int
        Size of its files.
    seconds : float
        That making it took, also if it was made before.
    """

    stage: Stage
    part: int
    state: Literal["done", "there"]
    images: int
    failed: int
    bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Marker:
    """What a part says of itself; `made_by` are the facts that must agree among parts."""

    stage: Stage
    part: int
    folder: str
    files: dict[str, dict[str, Any]]
    made_by: dict[str, Any]
    images: int
    failed: int
    seconds: float

    def report(self, state: Literal["done", "there"]) -> PartReport:
        """Return what the command says of it."""
        size = sum(seal["bytes"] for seal in self.files.values())
        return PartReport(self.stage, self.part, state, self.images, self.failed, size, self.seconds)


def marker_of(place: Place, stage: Stage, part: int) -> Marker | None:
    """Return the marker of a part, None if there is none; a `FormatError` if it is damaged or of another version."""
    name = _marker(stage, part)
    contents = place.read(name)
    if contents is None:
        return None
    try:
        values = json.loads(contents)
        found, version = values.pop("format"), values.pop("version")
        if found == _FORMAT and version != VERSION:
            raise FormatError(f"{place}/{name}: part {part} has version {version}, this version reads {VERSION}")
        if found == _FORMAT and (values["stage"], values["part"]) == (stage, part):
            return Marker(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{place}/{name}: the marker of part {part} is damaged: {error!r}") from error
    raise FormatError(f"{place}/{name}: not the marker of part {part}")


def needed_marker(place: Place, stage: Stage, part: int) -> Marker:
    """Return the marker of a part that must be there; a `FormatError` if it is not."""
    found = marker_of(place, stage, part)
    if found is None:
        raise FormatError(f"{place}: part {part} is not {_DONE[stage]} yet")
    return found


def check_made_by(place: Place, marker: Marker, wanted: Mapping[str, Any]) -> None:
    """Raise `MismatchError` unless a part was made by what is wanted."""
    for name, value in wanted.items():
        if (found := marker.made_by.get(name)) != value:
            raise MismatchError(
                f"{place}: part {marker.part} was {_DONE[marker.stage]} with {name} {found}, wanted is {value}; use "
                f"another place, or delete {_marker(marker.stage, marker.part)} and make the part again"
            )


@contextmanager
def working_folder(place: Place, stage: Stage, part: int) -> Iterator[tuple[Path, str]]:
    """Yield a new local folder for a part, and its name in the place; it is deleted unless `commit` has marked it."""
    name = f"{stage}/{part:05d}-{secrets.token_hex(4)}"
    if place.local is None:
        with tempfile.TemporaryDirectory(prefix="delf-shard-") as folder:
            yield Path(folder), name
        return
    folder = place.local / name
    with system_errors(f"{folder}: cannot be made"):
        folder.mkdir(parents=True)
    try:
        yield folder, name
    finally:
        marker = marker_of(place, stage, part)
        if marker is None or marker.folder != name:
            shutil.rmtree(folder, ignore_errors=True)


def commit(place: Place, folder: Path, marker: Marker) -> PartReport:
    """Put the files of `folder` into the place and mark the part as done, unless another worker has."""
    stage, part, name = marker.stage, marker.part, marker.folder
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _is_lock(path):
            inside = path.relative_to(folder).as_posix()
            store = place.local is None
            marker.files[inside] = place.upload(path, f"{name}/{inside}") if store else sealed(path)
    contents = json.dumps({"format": _FORMAT, "version": VERSION, **asdict(marker)}, indent=1).encode()
    if place.create(_marker(stage, part), contents):
        return marker.report("done")
    if place.local is None:
        place.remove(name)
    return needed_marker(place, stage, part).report("there")


@contextmanager
def opened(place: Place, marker: Marker) -> Iterator[Path]:
    """Yield a local folder with the files of a part, all compared with their checksums.

    A `FormatError` if one is missing or damaged.
    """
    again = f"delete {_marker(marker.stage, marker.part)} and make part {marker.part} again"
    with tempfile.TemporaryDirectory(prefix="delf-shard-") as temporary:
        try:
            for file, seal in marker.files.items():
                if place.local is None:
                    place.download(f"{marker.folder}/{file}", Path(temporary, file), seal)
                else:
                    place.check(f"{marker.folder}/{file}", seal)
        except FormatError as error:
            raise FormatError(f"{error}; {again}") from error
        yield Path(temporary) if place.local is None else place.local / marker.folder


def _marker(stage: Stage, part: int) -> str:
    return f"{stage}/{part:05d}.json"


def _is_lock(path: Path) -> bool:
    return path.suffix == ".lock" or path.name in (".lock", "lock.mdb")
