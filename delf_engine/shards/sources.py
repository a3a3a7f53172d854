"""Which photographs there are: in a folder or below an address, in a list, or in a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from delf_engine.errors import ConfigError, FormatError
from delf_engine.images import find_images, image_suffixes
from delf_engine.shards.place import Place
from delf_engine.support.files import library_errors


@dataclass(frozen=True)
class Photograph:
    """A photograph to extract: its id, where it is, and its size, if that is known without asking for each."""

    id: str
    address: str
    bytes: int | None = None


def photographs(source: str) -> Iterator[Photograph]:
    """Yield the photographs of a source, listed once, always in the same order.

    Parameters
    ----------
    source : str
        A folder, or the address of one: ids are the paths from there, in the order in which `Engine.add` takes
        them. ``*.txt``: an address a line, which is the id, too; relative ones start from the folder of the list.
        ``*.parquet``: columns ``address``, and if there are any ``id`` and ``bytes``.

    Raises
    ------
    ConfigError
        If the address cannot be used here, or pyarrow is not installed.
    FormatError
        If the list, or a folder, cannot be read.
    DataError
        If a local folder holds no photograph.
    """
    kind = PurePosixPath(source).suffix.lower()
    if kind in (".txt", ".parquet"):
        rows = _of_parquet(source) if kind == ".parquet" else ((line, line, None) for line in _lines(source))
        return _once(rows, source)
    place = Place(source)
    return _of_store(place) if place.local is None else _of_folder(os.path.abspath(place.local))


def _of_folder(folder: str) -> Iterator[Photograph]:
    for path in find_images([folder]):
        size = None
        if os.path.exists(path):  # else a broken link, which is reported when it is read
            size = os.stat(path).st_size
        yield Photograph(os.path.relpath(path, folder), path, size)


def _of_store(place: Place) -> Iterator[Photograph]:
    with library_errors(f"{place}: cannot be listed"):
        for folder, folders, files in place.fs.walk(place.root, detail=True, on_error="raise"):
            inside = sorted(item for item in folders.items() if not item[0].startswith("."))
            folders.clear()
            folders.update(inside)
            for name in sorted(files):
                if not name.startswith(".") and PurePosixPath(name).suffix.lower() in image_suffixes():
                    path = f"{folder.rstrip('/')}/{name}"
                    address = place.fs.unstrip_protocol(path)
                    yield Photograph(path[len(place.root) :].lstrip("/"), address, files[name].get("size"))


def _lines(source: str) -> Iterator[str]:
    contents = _folder_of(source).read(os.path.basename(source))
    if contents is None:
        raise FormatError(f"{source}: there is no such list")
    # As the system gives file names that are not UTF-8.
    for line in contents.decode("utf-8", "surrogateescape").split("\n"):
        if line := line.rstrip("\r"):
            yield line


def _of_parquet(source: str) -> Iterator[tuple[str, str, int | None]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{source}: Parquet needs pip install 'delf-engine[parquet]'") from error
    place = Place(source)
    with library_errors(f"{source}: cannot be read"), place.fs.open(place.root) as file:
        table = parquet.ParquetFile(file)
        names = set(table.schema_arrow.names)
        if "address" not in names:
            raise FormatError(f"{source}: no column 'address', there are {', '.join(sorted(names))}")
        for batch in table.iter_batches(columns=sorted(names & {"address", "bytes", "id"})):
            for row in batch.to_pylist():
                yield row.get("id", row["address"]), row["address"], row.get("bytes")


def _once(rows: Iterator[tuple[str, str, int | None]], source: str) -> Iterator[Photograph]:
    """Yield the rows of a list, of an id that occurs twice the first."""
    seen: set[str] = set()
    folder = _folder_of(source)
    base = folder.address if folder.local is None else os.path.abspath(folder.local)
    for number, (name, address, size) in enumerate(rows):
        if not (name and address and isinstance(name, str) and isinstance(address, str)):
            raise FormatError(f"{source}: row {number}: id and address must be text, got {name!r}, {address!r}")
        if not (size is None or isinstance(size, int)):
            raise FormatError(f"{source}: row {number}: bytes must be a whole number, got {size!r}")
        if name not in seen:
            seen.add(name)
            absolute = "://" in address or os.path.isabs(address)
            yield Photograph(name, address if absolute else f"{base}/{address}", size)


def _folder_of(source: str) -> Place:
    return Place(os.path.dirname(source) or ".")
