"""Data sets on this machine: where they lie, which images they should have, and which of them are there."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from delf_engine.datasets.manifest import Manifest, read_hashes
from delf_engine.datasets.table import KNOWN, Definition, definition
from delf_engine.datasets.unpack import place
from delf_engine.downloads import file_sha256
from delf_engine.errors import DataError, FormatError
from delf_engine.evaluation import GroundTruth, load_ground_truth
from delf_engine.images import IMAGE_SUFFIXES
from delf_engine.support.files import user_folder

__all__ = ["Dataset", "data_folder", "locate", "missing_images"]

_IMAGES = "jpg"


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds all data sets.

    `root` if it is given, else the folder that DELF_ENGINE_DATA names, else ``data/`` of the folder that
    DELF_ENGINE_HOME names, else of the platform's folder for data: on Linux ``~/.local/share/delf-engine`` (or
    under XDG_DATA_HOME), on macOS ``~/Library/Application Support/delf-engine``.
    """
    given = os.fspath(root) if root is not None else os.environ.get("DELF_ENGINE_DATA")
    return Path(given).expanduser() if given else user_folder("data") / "data"


def locate(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Find a data set that was downloaded, or put where it would have been.

    Parameters
    ----------
    name : str
        Of a known set; or the path of a folder with ``jpg/`` and one ``gnd_*.pkl``, see `Dataset.open`.
    root : path, optional
        The folder that holds the sets; see `data_folder`.

    Raises
    ------
    DataError
        If there is no such set, or it is not there.
    """
    if name not in KNOWN and os.path.isdir(name):
        return Dataset.open(name)
    known = definition(name)
    folder = data_folder(root) / known.folder
    found = Dataset.of(known, folder)
    needed = [found.images, *(folder / path for path in (known.ground_truth, known.listing) if path)]
    absent = [path for path in needed if not path.exists()]
    if absent:
        strangers = sorted(path.name for path in folder.glob("gnd_*.pkl")) if known.ground_truth else []
        other = f" ({', '.join(strangers)} is there, the ground truth of another set)" if strangers else ""
        raise not_there(known, f"no {absent[0]}{other}")
    return found


def missing_images(truth: GroundTruth, folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of a ground truth, gallery first, then queries, that have no image in a folder.

    Parameters
    ----------
    truth : GroundTruth
    folder : path
        Of the images: ``NAME.jpg``, or NAME where it has the ending of an image already.

    Raises
    ------
    DataError
        If there is no such folder, or a name would lead out of it.
    """
    images = Path(folder)
    if not images.is_dir():
        raise DataError(f"{images}: no such folder of images")
    return _missing(dict.fromkeys([*truth.names, *truth.query_names]), images, None)


@dataclass(frozen=True)
class Dataset:
    """A data set in a folder of this machine.

    Attributes
    ----------
    name : str
    folder : Path
    images : Path
        The folder of its images.
    definition : Definition or None
        What is known of it; None for a set of one's own.
    ground_truth_file : Path or None
    """

    name: str
    folder: Path
    images: Path
    definition: Definition | None = None
    ground_truth_file: Path | None = None

    @classmethod
    def of(cls, known: Definition, folder: Path) -> Dataset:
        """Return a known set as it would lie in `folder`, whether it is there or not."""
        truth = folder / known.ground_truth if known.ground_truth else None
        return cls(known.name, folder, folder / known.images, known, truth)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open a folder with ``jpg/*.jpg`` and one ``gnd_NAME.pkl``, as ``data get`` and ``data synthesize`` do.

        Raises
        ------
        DataError
            If there is no folder ``jpg``, or not one ground truth.
        """
        path = Path(folder)
        truths = sorted(path.glob("gnd_*.pkl"))
        if len(truths) != 1:
            found = ", ".join(truth.name for truth in truths) or "none"
            raise DataError(f"{path}: one ground truth gnd_*.pkl was expected in this folder, found {found}")
        if not (path / _IMAGES).is_dir():
            raise DataError(f"{path}: no folder {_IMAGES} with the images beside {truths[0].name}")
        name = truths[0].stem.removeprefix("gnd_")
        return cls(name, path, path / _IMAGES, KNOWN.get(name), truths[0])

    @cached_property
    def ground_truth(self) -> GroundTruth:
        """The ground truth of the revisited protocol.

        Raises
        ------
        DataError
            If the set has none, or the file is the ground truth of another set.
        FormatError
            If it cannot be read.
        """
        if self.ground_truth_file is None:
            raise DataError(f"{self.name} has no ground truth of the revisited protocol")
        truth = load_ground_truth(self.ground_truth_file)
        if self.definition is not None:
            _check_belongs(self.definition, self.ground_truth_file, truth)
        return truth

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the images that there should be: of the gallery, then of the queries.

        Of a set that was downloaded in part: those of the parts that were.

        Raises
        ------
        DataError, FormatError
            If the list of them is missing or cannot be read.
        """
        if self.ground_truth_file is not None:
            return tuple(dict.fromkeys([*self.ground_truth.names, *self.ground_truth.query_names]))
        known = self.definition
        if known is None or known.listing is None:
            raise DataError(f"{self.folder}: nothing says which images there should be")
        received = self.received
        if received is not None and len(self.parts) < len(known.archives):
            return tuple(sorted(self._name(path) for path in received))
        return read_names(self.folder / known.listing)

    @cached_property
    def parts(self) -> tuple[int, ...]:
        """The numbers of the parts that were downloaded and unpacked here."""
        known = self.definition
        if known is None:
            return ()
        done = Manifest.read(self.folder).parts
        return tuple(n for n in known.numbers if f"{known.images}/{known.archive(n).name}" in done)

    @cached_property
    def received(self) -> dict[str, str] | None:
        """SHA-256 of the images when they were unpacked, by their paths below `images`; None if none was."""
        known = self.definition
        if known is None or not self.parts:
            return None
        manifest, hashes = Manifest.read(self.folder), {}
        for number in self.parts:
            record = manifest.parts[f"{known.images}/{known.archive(number).name}"]
            hashes.update(read_hashes(self.folder / record.hashes))
        start = f"{known.images}/"
        return {path.removeprefix(start): value for path, value in hashes.items()}

    def image(self, name: str) -> Path:
        """Return the path of an image, whether it is there or not.

        Raises
        ------
        DataError
            If the name would lead out of the folder.
        """
        return self.images / self.path_of(name)

    def path_of(self, name: str) -> str:
        """Return the path of an image below `images`, with ``/`` between folders; errors as `image`."""
        return _path_of(name, self.definition)

    def missing(self) -> list[str]:
        """Return the names that have no image."""
        return _missing(self.names, self.images, self.definition)

    def _name(self, path: str) -> str:
        """Return the name of an image of this set by its path below `images`."""
        lettered = self.definition is not None and self.definition.layout == "letters"
        return PurePosixPath(path).stem if lettered else path


def not_there(known: Definition, why: str) -> DataError:
    """Return the error that a known set is not on this machine."""
    return DataError(
        f"{known.name} is not there: {why}; download it with: delf-engine data get {known.name}, or name the "
        "folder above it with --root or DELF_ENGINE_DATA"
    )


def read_names(path: Path) -> tuple[str, ...]:
    """Read a list of images: one a line, or the column ``id`` of a CSV file.

    Raises
    ------
    FormatError
        If it cannot be read, has no such column, is empty, or has a name twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                rows = csv.DictReader(file)
                if "id" not in (rows.fieldnames or ()):
                    raise FormatError(f"{path}: has no column id, its first line is {rows.fieldnames}")
                names = [row["id"] for row in rows]
            else:
                names = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: the list of images cannot be read: {error}") from error
    names = [name.removeprefix("./").removeprefix("jpg/") for name in names if name]
    if not names:
        raise FormatError(f"{path}: no image in this list")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        doubled = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FormatError(f"{path}: {doubled!r} stands in it twice")
    return tuple(names)


def _missing(names: Iterable[str], images: Path, known: Definition | None) -> list[str]:
    there = files_below(images)  # a million names are too many to ask for one by one
    paths = {name: _path_of(name, known) for name in names}
    return [name for name, path in paths.items() if path not in there and not os.path.isfile(images / path)]


def files_below(folder: Path) -> set[str]:
    """Return the files below a folder by their paths relative to it, but hidden ones and links to folders."""
    found: set[str] = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{inside}{entry.name}/")
                    elif entry.is_file():
                        found.add(f"{inside}{entry.name}")
        except OSError:  # then its files are missing
            continue
    return found


def _path_of(name: str, known: Definition | None) -> str:
    """Return where an image of this name lies below the folder of images."""
    inside = posixpath.normpath(name) if name else "."
    if inside == "." or "\0" in inside or inside.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{name!r} is no name of an image: it would lead out of its folder")
    if posixpath.splitext(inside)[1].lower() not in IMAGE_SUFFIXES:
        inside += ".jpg"
    return place(inside, "letters") if known is not None and known.layout == "letters" else inside


def _check_belongs(known: Definition, path: Path, truth: GroundTruth) -> None:
    """Raise if this is not the ground truth of this set."""
    found = file_sha256(path)
    for other in KNOWN.values():
        if other.name != known.name and any(file.sha256 == found for file in other.files):
            raise DataError(f"{path}: is the ground truth of {other.name}, not of {known.name}")
    gallery = known.count - known.queries
    if (len(truth.names), len(truth)) != (gallery, known.queries):
        raise DataError(
            f"{path}: has {len(truth.names)} images and {len(truth)} queries, {known.name} has {gallery} and "
            f"{known.queries}; it is the ground truth of another set, or of a part of it"
        )
