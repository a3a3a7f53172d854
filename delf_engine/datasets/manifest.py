"""What was received of a data set: ``data.json`` beside it, and one list of hashes for each archive.

The lists have the form of ``sha256sum``, so that ``sha256sum -c`` reads them, too. A record is written when all
that it speaks of is there, and replaced as a whole, so that a process may be killed at any moment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from delf_engine.errors import FormatError
from delf_engine.support.files import replacing

__all__ = ["MANIFEST", "FileRecord", "Manifest", "PartRecord", "read_hashes", "write_hashes"]

MANIFEST = "data.json"

_FORMAT = 1
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class FileRecord:
    """A file as it was received: where from, its bytes, their SHA-256."""

    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PartRecord:
    """An archive that was received and unpacked.

    Attributes
    ----------
    url : str
    bytes : int
    sha256 : str
        Of the archive as it came.
    published : str
        The publisher's checksum that it was compared with, such as ``MD5 ...``; empty where there is none.
    images : int
        Unpacked from it.
    left_out : int
        Files in it that were not unpacked: no images, or known to be damaged as published.
    hashes : str
        Path of the list of its images' hashes, below the set's folder.
    """

    url: str
    bytes: int
    sha256: str
    published: str
    images: int
    left_out: int
    hashes: str


@dataclass
class Manifest:
    """What was received into a folder.

    Attributes
    ----------
    folder : Path
    files : dict of str to FileRecord
        By their paths below `folder`.
    parts : dict of str to PartRecord
        By the folder of their images and their names: ``jpg/paris_1-v1.tgz``.
    """

    folder: Path
    files: dict[str, FileRecord] = field(default_factory=dict)
    parts: dict[str, PartRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder; an empty one if there is none.

        Raises
        ------
        FormatError
            If it cannot be read, or is none.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(folder)
        except (OSError, ValueError) as error:
            raise FormatError(f"{path}: cannot be read: {error}; delete it to begin anew") from error
        try:
            version = content["format"]
            if version == _FORMAT:
                files = {str(name): FileRecord(**record) for name, record in content["files"].items()}
                parts = {str(name): PartRecord(**record) for name, record in content["parts"].items()}
                return cls(folder, files, parts)
        except (AttributeError, LookupError, TypeError) as error:
            raise FormatError(f"{path}: is no record of a data set: {error!r}; move it away") from error
        raise FormatError(f"{path}: has format {version!r}, this version of delf-engine knows {_FORMAT}")

    def write(self) -> None:
        """Put it in the place of the one on disk."""
        content = {
            "format": _FORMAT,
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
            "parts": {name: asdict(self.parts[name]) for name in sorted(self.parts)},
        }
        _write(self.folder / MANIFEST, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_hashes(path: Path, hashes: Mapping[str, str]) -> None:
    """Write a list of files and their SHA-256, sorted by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)))


def read_hashes(path: Path) -> dict[str, str]:
    """Read a list of files and their SHA-256.

    Raises
    ------
    FormatError
        If it is missing or no such list.
    """
    try:
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        raise FormatError(f"{path}: the list of what was received cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match:
            found[match[2]] = match[1]
        elif line:
            raise FormatError(f"{path}: line {number} is not a SHA-256 and a name: {line[:80]!r}")
    return found


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
