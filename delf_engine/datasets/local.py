"""The data sets that are known (``sets.toml``), where they lie on this machine, and what of them is there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field

from delf_engine.config import Config, parse_config, read_toml
from delf_engine.errors import DataError, DelfEngineError, FormatError
from delf_engine.evaluation import load_ground_truth
from delf_engine.images import image_suffixes
from delf_engine.support.files import file_sha256, system_errors


class Definition(Config):
    """A data set as it is published.

    Attributes
    ----------
    name, title, homepage, licence, citation : str
        For people.
    folder, images : str
        Its folder below that of all sets, and the folder of its images in it.
    layout : "flat", "tree" or "letters"
        Where an image lies: all in one folder, as in the archive, or by the first three letters of its name.
    count, queries : int
        Images, queries included, and how many of them are queries of the ground truth.
    files, hashes : dict of str
        Addresses of files that are kept as they come, and their SHA-256 where it is known.
    ground_truth, listing : str or None
        The one of `files` that is the ground truth, or that lists all images.
    archive, md5 : str
        Addresses of a part and of the file with its MD5; {} is its number.
    archive_bytes : int
        Size of one archive, roughly.
    first_part, last_part : int
        Numbers of the parts.
    corrupt : tuple of str
        Files that are damaged as published and belong to no protocol.
    """

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    folder: str
    images: str
    layout: Literal["flat", "tree", "letters"]
    count: int
    queries: int = 0
    files: dict[str, str]
    hashes: dict[str, str] = Field(default_factory=dict)
    ground_truth: str | None = None
    listing: str | None = None
    archive: str
    md5: str | None = None
    archive_bytes: int
    first_part: int = 1
    last_part: int = 1
    corrupt: tuple[str, ...] = ()

    @property
    def parts(self) -> range:
        """The numbers of its parts."""
        return range(self.first_part, self.last_part + 1)

    def archive_name(self, part: int) -> str:
        """Return the file name of a part."""
        return self.archive.format(part).rpartition("/")[2]


_PATH = Path(__file__).with_name("sets.toml")

#: All known data sets by name.
KNOWN = {
    name: parse_config(Definition, {"name": name, **values}, where=f"{_PATH}: {name}")
    for name, values in read_toml(_PATH).items()
}


def definition(name: str) -> Definition:
    """Return what is known of a data set.

    Raises
    ------
    DataError
        If there is none of this name.
    """
    if name not in KNOWN:
        raise DataError(f"there is no data set {name!r}; known are {', '.join(KNOWN)}")
    return KNOWN[name]


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds all data sets.

    `root` if it is given, else the folder that DELF_ENGINE_DATA names, else ``data/`` of the folder that
    DELF_ENGINE_HOME names, else of the platform's folder for data: on Linux ``~/.local/share/delf-engine`` (or
    under XDG_DATA_HOME), on macOS ``~/Library/Application Support/delf-engine``.
    """
    given = os.fspath(root) if root is not None else os.environ.get("DELF_ENGINE_DATA")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("DELF_ENGINE_HOME") or platformdirs.user_data_path("delf-engine", appauthor=False)
    return Path(home).expanduser() / "data"


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
    found = _dataset(name, root)
    for path in (found.images, found.ground_truth_file, found.listing):
        if path is not None and not path.exists():
            raise DataError(
                f"{name} is not there: no {path}; download it with: delf-engine data get {name}, or name the "
                "folder above it with --root or DELF_ENGINE_DATA"
            )
    return found


def _dataset(name: str, root: str | os.PathLike[str] | None) -> Dataset:
    own = name not in KNOWN and os.path.isdir(name)
    return Dataset.open(name) if own else Dataset.of(definition(name), root)


@dataclass(frozen=True)
class Dataset:
    """A data set in a folder of this machine: its folder, and the one of its images.

    Attributes
    ----------
    name : str
    folder, images : Path
    definition : Definition or None
        What is known of it; None for a set of your own.
    ground_truth_file, listing : Path or None
        What names its images: a ground truth of the revisited protocol, or a list.
    """

    name: str
    folder: Path
    images: Path
    definition: Definition | None = None
    ground_truth_file: Path | None = None
    listing: Path | None = None

    @classmethod
    def of(cls, known: Definition, root: str | os.PathLike[str] | None = None) -> Dataset:
        """Return a known set as it would lie in `data_folder`, whether it is there or not."""
        folder = data_folder(root) / known.folder
        truth, listing = (folder / path if path else None for path in (known.ground_truth, known.listing))
        return cls(known.name, folder, folder / known.images, known, truth, listing)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open a folder with ``jpg/*.jpg`` and one ``gnd_NAME.pkl``, as ``data get`` makes it.

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
        if not (path / "jpg").is_dir():
            raise DataError(f"{path}: no folder jpg with the images beside {truths[0].name}")
        name = truths[0].stem.removeprefix("gnd_")
        return cls(name, path, path / "jpg", KNOWN.get(name), truths[0])

    @property
    def parts(self) -> tuple[int, ...]:
        """The numbers of the parts that were downloaded and unpacked here."""
        known = self.definition
        return () if known is None else tuple(part for part in known.parts if self.record(part).is_file())

    def record(self, part: int) -> Path:
        """Return the list of the images of a part, which is written once all of them are unpacked."""
        assert self.definition is not None
        return self.folder / ".received" / self.definition.images / f"{self.definition.archive_name(part)}.txt"

    @cached_property
    def expected(self) -> tuple[str, ...]:
        """The images that there should be, by their paths below `images`; of a set got in part, of those parts.

        Raises
        ------
        DataError
            If the ground truth is that of another set.
        FormatError
            If the list of them is missing or cannot be read.
        """
        known = self.definition
        if known is not None and self.listing is not None and 0 < len(self.parts) < len(known.parts):
            return tuple(path for part in self.parts for path in _read_lines(self.record(part)))
        if self.ground_truth_file is not None:
            truth = load_ground_truth(self.ground_truth_file)
            names = [*truth.names, *truth.query_names]
            if known is not None and (len(names), len(truth)) != (known.count, known.queries):
                raise DataError(
                    f"{self.ground_truth_file}: is of another set: it has {len(names)} images and {len(truth)} "
                    f"queries, {known.name} has {known.count} and {known.queries}"
                )
        else:
            assert self.listing is not None
            lines = _read_lines(self.listing)  # one a line, or CSV of which the first column is id
            names = [line.split(",")[0].removeprefix("./") for line in lines if line.split(",")[0] != "id"]
            if not names:
                raise FormatError(f"{self.listing}: no image in this list")
        jpeg = [name if Path(name).suffix.lower() in image_suffixes() else f"{name}.jpg" for name in names]
        return tuple(dict.fromkeys(place(name, known.layout) if known is not None else name for name in jpeg))

    def missing(self, part: int | None = None) -> list[str]:
        """Return the images that should be there, of an unpacked part or of all, and are not, or are empty."""
        paths = self.expected if part is None else _read_lines(self.record(part))
        there: set[str] = set()
        for folder in {os.path.dirname(path) for path in paths}:  # quicker than one by one
            if (self.images / folder).is_dir():
                files = (entry for entry in os.scandir(self.images / folder) if entry.is_file())
                there.update(os.path.join(folder, file.name) for file in files if file.stat().st_size)
        return [path for path in paths if path not in there]

    def missing_parts(self) -> tuple[int, ...]:
        """Return the numbers of the parts of a known set of which an image is not there."""
        assert self.definition is not None
        every, done = tuple(self.definition.parts), self.parts
        if done:
            return tuple(part for part in every if part not in done or self.missing(part))
        try:  # put there by hand?
            return () if self.images.is_dir() and not self.missing() else every
        except DelfEngineError:  # nothing tells yet which images there should be
            return every


def place(inside: str, layout: str) -> str:
    """Return where an image of an archive is put, below the folder of images; see `Definition.layout`."""
    name = inside.rpartition("/")[2]
    if layout == "letters":
        return "/".join([*name[:3], name])
    return name if layout == "flat" else inside.removeprefix("jpg/")


def _read_lines(path: Path) -> list[str]:
    with system_errors(f"{path}: the list of images cannot be read"):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [line.strip() for line in text.split("\n") if line.strip()]


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is in order, a few words on it, and the names concerned."""

    what: str
    ok: bool
    found: str
    names: tuple[str, ...] = ()


def check(name: str, root: str | os.PathLike[str] | None = None) -> list[Finding]:
    """Check a data set on this machine: its files, and which of its images are there.

    Every check is made, also after one has failed; `name` and `root` are those of `locate`.

    Raises
    ------
    DataError
        If there is no such set, or nothing of it is here.
    """
    dataset, findings = _dataset(name, root), []
    if not dataset.folder.is_dir():
        raise DataError(f"{name} is not there: no {dataset.folder}; get it with: delf-engine data get {name}")
    known = dataset.definition
    if known is not None:
        for file in known.files:
            published, path = known.hashes.get(file), dataset.folder / file
            own = file_sha256(path) if path.is_file() else None
            told = "missing" if own is None else f"SHA-256 {own}, published {published or 'is none'}"
            findings.append(Finding(file, own is not None and published in (None, own), told))
    try:
        expected, missing = dataset.expected, dataset.missing()
    except DelfEngineError as error:  # of the ground truth, or the list
        return [*findings, Finding("names", False, str(error))]
    found = f"{len(missing):,} of {len(expected):,} are not there"
    return [*findings, Finding("images", not missing, found, tuple(missing))]
