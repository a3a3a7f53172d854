"""Parts of a stage: made in a folder of their own, and there from the moment their marker is, which comes last.

The marker ``STAGE/00003.json`` names the folder, ``STAGE/00003-TOKEN``, size and hash of every file in it, and
what it was made by. Of two workers on one part the second finds the marker, or its own is refused: one folder
counts. What a killed worker leaves is a folder that no marker names.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from delf_engine.errors import FormatError, MismatchError
from delf_engine.shards.place import Place, sealed
from delf_engine.support.files import system_errors

Stage: TypeAlias = Literal["features", "index"]

VERSION = 1
_FORMAT = "delf-engine part"
_COMMANDS = {"features": "extract", "index": "index"}
_NAMED = 10  # parts that one error names


@dataclass(frozen=True)
class Part:
    """A part that is there.

    Attributes
    ----------
    stage : str
        "features", "index", or that of a re-ranking.
    part : int
    folder : str
        Where its files lie in the place: a feature store, an index, or verifications.
    made_by : dict
        What all parts must agree in: model, dimension, hashes of options and words.
    images, failed : int
        Photographs in it, and those that could not be read; or pairs, and those without features.
    seconds : float
        That making it took.
    files : dict
        Size and SHA-256 of each.
    state : "done" or "there"
        "there": another worker, or an earlier call, had made it.
    """

    stage: str
    part: int
    folder: str
    made_by: dict[str, Any]
    images: int
    failed: int
    seconds: float
    files: dict[str, dict[str, Any]]
    state: Literal["done", "there"] = "there"

    def to_dict(self) -> dict[str, Any]:
        """Return what is told of it, as plain Python values, ready for JSON."""
        values = {key: value for key, value in asdict(self).items() if key not in ("made_by", "files")}
        return {**values, "bytes": sum(seal["bytes"] for seal in self.files.values())}

    def check(self, place: Place, wanted: Mapping[str, Any]) -> Part:
        """Return the part; a `MismatchError` unless it was made by what is wanted."""
        for name, value in wanted.items():
            if (found := self.made_by.get(name)) != value:
                made = f"{place}: part {self.part} was made with {name} {found}, wanted is {value}"
                raise MismatchError(f"{made}; take another place, or {self._again}")
        return self

    @contextmanager
    def opened(self, place: Place, *, check: bool = True) -> Iterator[Path]:
        """Yield a local folder with its files, compared with their checksums unless they are here and not `check`.

        A `FormatError` if one is missing or differs.
        """
        with ExitStack() as stack:
            here = None if place.local is None else place.local / self.folder
            folder = here or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="delf-shard-")))
            try:
                for file, seal in self.files.items() if check or here is None else ():
                    place.fetch(f"{self.folder}/{file}", seal, (folder / file).parent)
                if not folder.is_dir():
                    raise FormatError(f"{folder}: is missing")
            except FormatError as error:
                raise FormatError(f"{error}; {self._again}") from error
            yield folder

    @property
    def _again(self) -> str:
        command = _COMMANDS.get(self.stage, "re-rank")
        return f"delete {_marker(self.stage, self.part)} and {command} part {self.part} again"


def find_part(place: Place, stage: str, part: int) -> Part | None:
    """Return a part, None if it is not there; a `FormatError` if its marker is damaged or of another version."""
    name = f"{place}/{_marker(stage, part)}"
    contents = place.read(_marker(stage, part))
    if contents is None:
        return None
    try:
        values = json.loads(contents)
        found = (values.pop("format"), values.pop("version"), values["stage"], values["part"])
        if found != (_FORMAT, VERSION, stage, part):
            raise FormatError(f"{name}: says {found}, not {(_FORMAT, VERSION, stage, part)}")
        return Part(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{name}: the marker of part {part} is damaged: {error!r}") from error


def find_parts(place: Place, stage: str, numbers: Iterable[int]) -> list[Part]:
    """Return parts that must be there; a `FormatError` names those that are not."""
    found = {part: find_part(place, stage, part) for part in numbers}
    if missing := [part for part, there in found.items() if there is None]:
        named = ", ".join(map(str, missing[:_NAMED])) + (" ..." if len(missing) > _NAMED else "")
        command = _COMMANDS.get(stage, "re-rank")
        raise FormatError(f"{place}: {stage} of {len(missing)} parts are missing ({named}): {command} them")
    return [there for there in found.values() if there is not None]


@contextmanager
def working_folder(place: Place, stage: str, part: int) -> Iterator[tuple[Path, str]]:
    """Yield a new local folder for a part, and its name in the place; deleted unless `commit` has marked it."""
    name = f"{stage}/{part:05d}-{secrets.token_hex(4)}"
    if place.local is None:
        with tempfile.TemporaryDirectory(prefix="delf-shard-") as temporary:
            yield Path(temporary), name
        return
    folder = place.local / name
    with system_errors(f"{folder}: cannot be made"):
        folder.mkdir(parents=True)
    try:
        yield folder, name
    finally:
        there = find_part(place, stage, part)
        if there is None or there.folder != name:
            shutil.rmtree(folder, ignore_errors=True)


def commit(place: Place, folder: Path, made: Part) -> Part:
    """Put the files of `folder` into the place and mark the part, unless another worker has; return the part."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (".lock", "lock.mdb"):
            file = path.relative_to(folder).as_posix()
            made.files[file] = sealed(path) if place.local else place.upload(path, f"{made.folder}/{file}")
    values = {"format": _FORMAT, "version": VERSION, **asdict(replace(made, state="there"))}
    if place.create(_marker(made.stage, made.part), json.dumps(values, indent=1).encode()):
        return replace(made, state="done")
    if place.local is None:
        place.remove(made.folder)
    return find_parts(place, made.stage, [made.part])[0]


def _marker(stage: str, part: int) -> str:
    return f"{stage}/{part:05d}.json"
