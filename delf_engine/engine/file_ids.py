"""One id for each file, however its path is written, and the way back from the id to the file.

An engine keeps a root, a folder. The id of a file inside it is the path from there, so that ids stay right when a
collection moves; the id of any other file is its absolute path. Symbolic links are names of their own. Files that
lie in the engine's own directory for others to see may have ids from there: they tell nothing of the machine.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from delf_engine.errors import ConfigError

#: Ids from the engine's directory begin with it.
_OWN = "engine:"


def kept_root(directory: Path, root: str | os.PathLike[str]) -> str:
    """Return a root as the engine in `directory` keeps it: from there if it lies inside, so that both can move.

    A `ConfigError` if there is no such folder, or its name cannot be kept.
    """
    place, home = os.path.abspath(root), os.path.abspath(directory)
    if not os.path.isdir(place):
        raise ConfigError(f"{place}: the root of an engine must be a folder that exists")
    kept = os.path.relpath(place, home) if _inside(home, place) is not None else place
    try:
        kept.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{place!r}: the name of an engine's root must be UTF-8; give another root=..."
        ) from error
    return kept


def root_of(directory: Path, kept: str | None) -> str | None:
    """Return the root, absolute, of an engine in `directory` that keeps `kept`; None: it is not known."""
    return None if kept is None else os.path.abspath(os.path.join(directory, kept))


def file_id(path: str | os.PathLike[str], root: str | None) -> str:
    """Return the id of a file; without a root its path as it is written."""
    written = os.fspath(path)
    if root is None:
        return written
    folder, name = os.path.split(written)
    if name in ("", ".", ".."):
        folder, name = written, ""
    absolute = os.path.normpath(os.path.join(_absolute(folder, os.getcwd()), name))
    inside = _inside(absolute, root)
    if inside is None:  # perhaps by another way
        folder, name = os.path.split(absolute)
        inside = _inside(os.path.join(_real(folder), name), _real(root))
    return absolute if inside is None else inside


def own_id(path: Path, directory: Path) -> str:
    """Return the id of a file that lies in the engine's directory and stays with it."""
    return f"{_OWN}{path.relative_to(directory).as_posix()}"


def file_of(image_id: str, root: str | None, directory: str | os.PathLike[str] = "") -> str:
    """Return the path of the file with this id, in an engine's `directory`."""
    if image_id.startswith(_OWN):
        return os.path.join(directory, image_id.removeprefix(_OWN))
    return image_id if root is None else os.path.join(root, image_id)


@lru_cache(maxsize=1024)
def _absolute(folder: str, here: str) -> str:
    """Return the absolute path of a folder; what follows a link upwards is where the system would go."""
    path = os.path.join(here, folder)
    return os.path.realpath(path) if ".." in Path(folder).parts else os.path.normpath(path)


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _inside(path: str, folder: str) -> str | None:
    """Return the way from a folder to what lies in it, both absolute; None if it does not."""
    start = os.path.join(folder, "")
    return path[len(start) :] if path.startswith(start) and path != start else None
