"""Is a local copy of a data set what it should be? Every check is made, also after one has failed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delf_engine.datasets.getting import archive_path
from delf_engine.datasets.local import Dataset, data_folder, files_below, not_there, read_names
from delf_engine.datasets.manifest import Manifest
from delf_engine.datasets.table import KNOWN, Definition, definition
from delf_engine.downloads import file_sha256
from delf_engine.errors import DelfEngineError, ImageError
from delf_engine.images import IMAGE_SUFFIXES, load_image

__all__ = ["Check", "Checked", "check"]

_START, _END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 1 << 12  # bytes at the end of a JPEG in which its end marker is looked for
_BATCH = 256


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, whether it is in order, a few words on it, and the names concerned."""

    what: str
    ok: bool
    found: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What all checks of a data set found.

    Attributes
    ----------
    name : str
    folder : Path
    deep : bool
        Whether every image was decoded.
    checks : tuple of Check
    """

    name: str
    folder: Path
    deep: bool
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        checks = [
            {"what": c.what, "ok": c.ok, "found": c.found, "names": [_printable(name) for name in c.names]}
            for c in self.checks
        ]
        return {"name": self.name, "folder": str(self.folder), "ok": self.ok, "deep": self.deep, "checks": checks}


def check(
    name: str | Definition,
    root: str | os.PathLike[str] | None = None,
    *,
    deep: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Check a data set on this machine: files, ground truth, names, and the images themselves.

    Parameters
    ----------
    name : str or Definition
        A known set, or the path of a folder that `Dataset.open` opens.
    root : path, optional
        See `delf_engine.datasets.data_folder`.
    deep : bool
        Decode every image, and compare its SHA-256 with what was unpacked. Without it an image is decoded only
        where it does not begin or end like a JPEG file.
    workers : int
        Threads that read images.
    progress : callable, optional
        Called with (images read, images in all).

    Raises
    ------
    DataError
        If there is no such set, or nothing of it is here.
    """
    dataset = _found(name, root)
    truth = _check_truth(dataset)
    checks = [*_check_files(dataset), *([truth] if truth is not None else []), *_check_parts(dataset)]
    there = files_below(dataset.images)
    checks += _check_names(dataset, there)
    checks += _check_images(dataset, sorted(there), deep, max(1, workers), progress)
    return Checked(dataset.name, dataset.folder, deep, tuple(checks))


def _found(name: str | Definition, root: str | os.PathLike[str] | None) -> Dataset:
    if isinstance(name, str) and name not in KNOWN and os.path.isdir(name):
        return Dataset.open(name)
    known = definition(name) if isinstance(name, str) else name
    folder = data_folder(root) / known.folder
    if not folder.is_dir():
        raise not_there(known, f"no folder {folder}")
    return Dataset.of(known, folder)


# -------------------------------------------------------------------------------------------- files, ground truth


def _check_files(dataset: Dataset) -> Iterator[Check]:
    """Compare each file with its published hash, else with the one that it had when it was received."""
    if dataset.definition is None:
        return
    try:
        received = Manifest.read(dataset.folder).files
    except DelfEngineError as error:
        yield Check("record of what was received", False, str(error))
        received = {}
    for file in dataset.definition.files:
        path = dataset.folder / file.path
        if not path.is_file():
            yield Check(file.path, False, "missing")
            continue
        found = file_sha256(path)
        recorded = received[file.path].sha256 if file.path in received else None
        if file.sha256 is not None:
            same = "as published" if found == file.sha256 else f"{found[:12]}..., published {file.sha256[:12]}..."
            yield Check(file.path, found == file.sha256, f"SHA-256 {same}")
        elif recorded is not None:
            same = "as received" if found == recorded else f"{found[:12]}..., received {recorded[:12]}..."
            yield Check(file.path, found == recorded, f"SHA-256 {same}; none is published")
        else:
            yield Check(file.path, True, f"{path.stat().st_size:,} bytes; no SHA-256 is published or recorded")


def _check_truth(dataset: Dataset) -> Check | None:
    """Read the ground truth, of whichever kind."""
    known = dataset.definition
    if dataset.ground_truth_file is not None:
        others = [p.name for p in sorted(dataset.folder.glob("gnd_*.pkl")) if p != dataset.ground_truth_file]
        try:
            truth = dataset.ground_truth
        except DelfEngineError as error:
            return Check("ground truth", False, str(error))
        if others:
            return Check("ground truth", False, f"beside it lies another one: {', '.join(others)}", tuple(others))
        return Check("ground truth", True, f"{len(truth)} queries, {len(truth.names)} images")
    if known is not None and known.solution is not None and (dataset.folder / known.solution).is_file():
        return _check_solution(dataset.folder, known)
    return None


def _check_solution(folder: Path, known: Definition) -> Check:
    """Compare the names in the retrieval ground truth of Google Landmarks with the list of this split."""
    assert known.solution is not None
    assert known.listing is not None
    path = folder / known.solution
    named: set[str] = set()
    try:
        listed = set(read_names(folder / known.listing))
        first, *rows = path.read_text(encoding="utf-8").splitlines()
        if first.split(",") != ["id", "images", "Usage"]:
            return Check("ground truth", False, f"{path}: begins with {first[:80]!r}, expected id,images,Usage")
        for row in rows:
            query, images, _ = row.split(",")
            found = () if images == "None" else images.split()
            named.update(found if known.images == "index" else [query])
    except (DelfEngineError, OSError, ValueError) as error:  # no three columns, no UTF-8, no line at all
        return Check("ground truth", False, f"{path}: cannot be read: {error}")
    strange = tuple(sorted(named - listed))
    unknown = f", {len(strange):,} of them not in {known.listing}" if strange else ""
    told = f"{len(rows):,} queries, {len(named):,} names of this split{unknown}"
    return Check("ground truth", not strange, told, strange)


def _check_parts(dataset: Dataset) -> Iterator[Check]:
    known = dataset.definition
    if known is None:
        return
    try:
        done = dataset.parts
    except DelfEngineError:  # said already
        return
    begun = []
    for number in known.numbers:
        path = archive_path(dataset.folder, known, known.archive(number))
        if path.with_name(f"{path.name}.part").exists() or (path.exists() and number not in done):
            begun.append(path.name)
    if begun:
        yield Check("downloads", False, "interrupted; data get goes on from there", tuple(begun))
    if done:
        yield Check("parts", True, f"{len(done)} of {len(known.archives)} downloaded and unpacked")


# ---------------------------------------------------------------------------------------------------- the images


def _check_names(dataset: Dataset, there: set[str]) -> Iterator[Check]:
    """Compare the images that are there with those that there should be."""
    known = dataset.definition
    try:
        if known is not None and known.listing is not None:
            listed = len(read_names(dataset.folder / known.listing))
            if listed != known.count:
                found = f"{known.listing} names {listed:,} images, {known.count:,} were expected"
                yield Check("list of images", False, found)
        wanted = {dataset.path_of(name) for name in dataset.names}
    except DelfEngineError as error:
        yield Check("names", False, f"nothing to compare them with: {error}")
        return
    missing = tuple(sorted(wanted - there))
    some = (
        f"{len(missing):,} of {len(wanted):,} images are not there"
        if missing
        else f"all {len(wanted):,} are there"
    )
    yield Check("images", not missing, some, missing)
    if missing and dataset.ground_truth_file is not None and 2 * len(missing) > len(wanted):
        yield Check(
            "images and ground truth", False, f"hardly any in common: is {dataset.images} of another data set?"
        )
    corrupt = known.corrupt if known is not None else frozenset()
    strange = tuple(sorted(there - wanted - corrupt))
    if strange:
        yield Check("other files", False, f"{len(strange):,} among the images that do not belong there", strange)
    if there & corrupt:
        found = f"{len(there & corrupt)} that are known to be damaged and are not used"
        yield Check("damaged as published", True, found, tuple(sorted(there & corrupt)))


def _check_images(
    dataset: Dataset, there: list[str], deep: bool, workers: int, progress: Callable[[int, int], None] | None
) -> Iterator[Check]:
    """Look into every image."""
    corrupt = dataset.definition.corrupt if dataset.definition is not None else frozenset()
    images = [name for name in there if Path(name).suffix.lower() in IMAGE_SUFFIXES and name not in corrupt]
    try:
        hashes = dataset.received if deep else None
    except DelfEngineError as error:
        yield Check("hashes", False, str(error))
        hashes = None

    def look(name: str) -> tuple[str, str] | None:
        return _problem(dataset.images / name, deep, None if hashes is None else hashes.get(name))

    problems: dict[str, list[str]] = {"empty": [], "damaged": [], "changed": []}
    # Reading, hashing and decoding let other threads run.
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            for name, problem in zip(batch, pool.map(look, batch), strict=True):
                if problem is not None:
                    problems[problem[0]].append(f"{name}: {problem[1]}" if problem[1] else name)
            if progress is not None:
                progress(start + len(batch), len(images))
    yield from _judged(problems, len(images), deep, hashes)


def _judged(
    problems: dict[str, list[str]], count: int, deep: bool, hashes: dict[str, str] | None
) -> Iterable[Check]:
    empty, damaged, changed = (tuple(problems[kind]) for kind in ("empty", "damaged", "changed"))
    if empty:
        yield Check("empty", False, f"{len(empty):,} images have no byte", empty)
    way = "decoded" if deep else "begin and end as they should"
    if damaged:
        yield Check("damaged", False, f"{len(damaged):,} images cannot be decoded", damaged)
    elif not empty:
        yield Check("content", True, f"all {count:,} images {way}" if count else "no image")
    if hashes is None:
        return
    if changed:
        yield Check("hashes", False, f"{len(changed):,} images are not as they were unpacked", changed)
    else:
        yield Check("hashes", True, f"all of {len(hashes):,} as they were unpacked")


def _problem(path: Path, deep: bool, sha256: str | None) -> tuple[str, str] | None:
    """Return the kind of a fault of an image and a word on it, or None if it has none."""
    try:
        content = path.read_bytes() if deep else _ends(path)
    except OSError as error:
        return "damaged", str(error)
    if not content:
        return "empty", ""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        return "changed", ""
    if not deep and content.startswith(_START) and _END in content[2:]:
        return None
    try:
        load_image(content if deep else path)
    except ImageError as error:
        return "damaged", error.reason
    return None


def _ends(path: Path) -> bytes:
    """Return the first two bytes of a file and its last ones; a few more may follow the end marker of a JPEG."""
    with path.open("rb") as file:
        start = file.read(2)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(2, size - _TAIL))
        return start + file.read()


def _printable(name: str) -> str:
    """Return a name without the bytes that JSON cannot hold."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
