"""The files of a segment: written from other segments, opened, and the list of removed images beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.index import disk
from delf_engine.index.ids import IdTable
from delf_engine.index.segments import Layout, Segment, dtype_of, merge

__all__ = ["Attachment", "attach", "open_segment", "write_dead", "write_segment"]

Attachment: TypeAlias = tuple[dict[str, Any], Callable[[Path], None]]  # its entry in the manifest; what writes it


def write_segment(path: Path, group: Sequence[Segment], layout: Layout, name: str) -> dict[str, Any]:
    """Write several segments as one into a new directory; return its entry in the manifest."""
    folder = path / name
    folder.mkdir()
    arrays: dict[str, npt.NDArray[Any]] = {}

    def allocate(array: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        arrays[array] = disk.create_array(folder / f"{array}.npy", shape, dtype_of(layout, array)[0])
        return arrays[array]

    merge(layout, group, allocate)
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    files = {f"{array}.npy": disk.seal(folder / f"{array}.npy") for array in arrays}
    disk.sync_directory(folder)
    return {"name": name, "images": sum(segment.live for segment in group), "dead": None, "files": files}


def write_dead(path: Path, segment: Segment, entry: dict[str, Any], generation: int) -> dict[str, Any]:
    """Write which images of a segment are removed, if that has changed; return its entry in the manifest."""
    if segment.dead == segment.saved_dead:
        return entry
    folder, name = path / entry["name"], f"dead-{generation:08d}.npy"
    np.save(folder / name, np.flatnonzero(~segment.alive).astype("<i4"))
    files = {file: seal for file, seal in entry["files"].items() if file != entry["dead"]}
    files[name] = disk.seal(folder / name)
    disk.sync_directory(folder)
    return {**entry, "dead": name, "files": files}


def open_segment(path: Path, entry: Mapping[str, Any], layout: Layout, *, contents: bool) -> Segment:
    """Map a segment; its files are compared with their sizes, and with their checksums if `contents`.

    Raises
    ------
    FormatError
        If it is damaged.
    FileNotFoundError
        If a file is missing.
    """
    folder = path / entry["name"]
    for file, seal in entry["files"].items():
        disk.check_file(folder / file, seal, contents=contents)
    names = [*IdTable.DTYPES, *layout.dtypes]
    arrays = {name: disk.open_array(folder / f"{name}.npy", *dtype_of(layout, name)) for name in names}
    dead = disk.open_array(folder / entry["dead"], "<i4", 1) if entry["dead"] else np.empty(0, "<i4")
    n = entry["images"]
    lengths = (len(arrays["id_rows"]), len(arrays["id_hashes"]), len(arrays["id_offsets"]) - 1)
    problem = layout.problem(arrays, n)
    if lengths != (n, n, n) or int(arrays["id_offsets"][-1]) != len(arrays["id_text"]):
        problem = "the table of image ids does not fit"
    elif len(dead) and not 0 <= int(dead.min()) <= int(dead.max()) < n:
        problem = "removed images are out of range"
    if problem is not None:
        raise FormatError(f"{folder}: the segment is damaged: {problem}; build the index again")
    return Segment(arrays, name=entry["name"], dead=dead)


def attach(path: Path, attachment: Attachment | None, generation: int) -> dict[str, Any] | None:
    """Write the attached file; return its entry in the manifest."""
    if attachment is None:
        return None
    description, write = attachment
    name = f"trees-{generation:08d}"
    write(path / name)
    return {**description, "name": name, **disk.seal(path / name)}
