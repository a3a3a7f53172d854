"""Checkpoints by name: a file, one that comes with the package, one in the cache, or one known by its URL.

A registry is a TOML file with one table a model: ``url`` and ``sha256`` of the checkpoint file, and optionally
``codebook_sha256`` (with ``codebook_url``, by default the checkpoint's with ``.codebook.safetensors``), ``size``
in bytes and a ``note``. One comes with the package; DELF_ENGINE_MODELS may name another, which goes first.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field

from delf_engine.config import Config, parse_config, read_toml
from delf_engine.downloads import Caller, Checksum, Progress, download
from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.support.files import user_folder

__all__ = [
    "DEFAULT_MODEL",
    "Located",
    "RemoteModel",
    "cache_folder",
    "cached_names",
    "codebook_beside",
    "fetch",
    "locate",
    "model_reference",
    "packaged_folder",
    "packaged_names",
    "parse_url",
    "registry",
]

DEFAULT_MODEL = "delf-r18"

_SUFFIX = ".safetensors"
_CODEBOOK = ".codebook.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_URL = re.compile(r"https?://[^/\s]+/[^\s]*", re.IGNORECASE)
_TAG = 12
_CALLER = Caller(CheckpointError, "set DELF_ENGINE_HOME to another folder")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+/\S*$")]


class RemoteModel(Config):
    """A checkpoint that can be downloaded, as a registry or a URL with its hash describes it.

    Attributes
    ----------
    name : str
    url, sha256 : str
        Of the checkpoint file.
    codebook_url, codebook_sha256 : str or None
        Of the codebook file that goes beside it; both or neither.
    size : int or None
        Bytes of the checkpoint file.
    note : str
        A few words for people.
    """

    name: str
    url: Url
    sha256: Sha256
    codebook_url: Url | None = None
    codebook_sha256: Sha256 | None = None
    size: int | None = Field(default=None, ge=1)
    note: str = ""

    @property
    def path(self) -> Path:
        """Where it lies in the cache. The hashes are part of the name: another version is another file."""
        hashes = self.sha256
        if self.codebook_sha256 is not None:
            hashes = hashlib.sha256(f"{self.sha256} {self.codebook_sha256}".encode()).hexdigest()
        return cache_folder() / f"{self.name}-{hashes[:_TAG]}{_SUFFIX}"

    @property
    def cached(self) -> bool:
        """Whether everything is there."""
        return self.path.is_file() and (self.codebook_url is None or codebook_beside(self.path).is_file())


@dataclass(frozen=True)
class Located:
    """Where a checkpoint was found.

    Attributes
    ----------
    origin : "file", "packaged", "cache" or "url"
    path : Path
        For ``"url"`` it exists only after `fetch`.
    remote : RemoteModel or None
        Where it can be had again, for ``"url"``.
    """

    origin: Literal["file", "packaged", "cache", "url"]
    path: Path
    remote: RemoteModel | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be read without the network."""
        return self.remote is None or self.remote.cached


def locate(name_or_path: str | os.PathLike[str]) -> Located:
    """Find a checkpoint without touching the network.

    In this order: a URL with its hash; a file; a name that comes with the package; a file of that name in the
    cache; a name in a registry.

    Raises
    ------
    CheckpointError
        If it is none of these.
    ConfigError
        If a registry had to be read and is wrong.
    """
    text = os.fspath(name_or_path)
    remote = parse_url(text)
    if remote is not None:
        return Located("url", remote.path, remote)
    if os.path.isfile(text):
        return Located("file", Path(text))
    if _is_name(text):
        if text in packaged_names():
            return Located("packaged", packaged_folder() / f"{text}{_SUFFIX}")
        if text in cached_names():
            return Located("cache", cache_folder() / f"{text}{_SUFFIX}")
    known = registry()
    if text in known:
        return Located("url", known[text].path, known[text])
    raise CheckpointError(_unknown(text, list(known)))


def fetch(remote: RemoteModel, *, progress: Progress | None = None) -> Path:
    """Download a checkpoint, and its codebook, into the cache unless they are there; return its path.

    Raises
    ------
    CheckpointError
        As `delf_engine.downloads.download`.
    """
    if remote.codebook_url is not None and remote.codebook_sha256 is not None:
        checksum = Checksum("sha256", remote.codebook_sha256)
        download(remote.codebook_url, codebook_beside(remote.path), checksum, caller=_CALLER, progress=progress)
    checksum = Checksum("sha256", remote.sha256)
    return download(remote.url, remote.path, checksum, caller=_CALLER, size=remote.size, progress=progress)


def model_reference(name_or_path: str | os.PathLike[str]) -> str:
    """Return what to write down to find the same checkpoint again: a name or URL as it is, a path in full.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    found = locate(name_or_path)
    return str(found.path.resolve()) if found.origin == "file" else os.fspath(name_or_path)


def parse_url(text: str) -> RemoteModel | None:
    """Read ``https://.../NAME.safetensors#sha256=HEX``, or return None if `text` is no URL.

    ``&codebook_sha256=HEX`` behind it says that a codebook lies beside it (``NAME.codebook.safetensors``).

    Raises
    ------
    CheckpointError
        If the hash is missing or wrong in form.
    """
    if not _URL.match(text):
        return None
    address = urlsplit(text)
    hashes = dict(parse_qsl(address.fragment))
    stem = address.path.rpartition("/")[2].removesuffix(_SUFFIX)
    values = {"name": stem if _is_name(stem) else "checkpoint", "url": address._replace(fragment="").geturl()}
    try:
        if not {"sha256"} <= set(hashes) <= {"sha256", "codebook_sha256"}:
            raise ConfigError(f"{text}: no hash, or more than hashes behind the #")
        return _remote({**values, **{key: value.lower() for key, value in hashes.items()}}, where=text)
    except ConfigError as error:
        raise CheckpointError(
            f"{error}. A checkpoint by URL is written with the SHA-256 of the file: "
            "https://.../NAME.safetensors#sha256= and 64 hexadecimal digits"
        ) from error


def registry() -> dict[str, RemoteModel]:
    """Return all models that are known by URL: those of DELF_ENGINE_MODELS, then the package's own.

    Raises
    ------
    ConfigError
        If a registry cannot be read, or an entry is incomplete or has an unknown key.
    """
    files = [packaged_folder() / "registry.toml"]
    given = os.environ.get("DELF_ENGINE_MODELS")
    if given:
        files.append(Path(given).expanduser())
    return {name: model for path in files for name, model in _read_registry(path).items()}


def packaged_folder() -> Path:
    """Return the folder of the checkpoints that come with the package."""
    return Path(__file__).parent.parent / "checkpoints"


def packaged_names() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return _names(packaged_folder())


def cache_folder() -> Path:
    """Return the folder of downloaded checkpoints.

    ``checkpoints/`` of the folder that DELF_ENGINE_HOME names, else of the platform's cache: on Linux
    ``~/.cache/delf-engine`` (or under XDG_CACHE_HOME), on macOS ``~/Library/Caches/delf-engine``.
    """
    return user_folder("cache") / "checkpoints"


def cached_names() -> list[str]:
    """Return the names of the checkpoints that lie in the cache."""
    return _names(cache_folder())


def codebook_beside(path: Path) -> Path:
    """Return where the codebook of a checkpoint lies if it has one: ``NAME.codebook.safetensors``."""
    return path.with_name(f"{path.stem}{_CODEBOOK}")


def _names(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob(f"*{_SUFFIX}") if not p.name.endswith(_CODEBOOK))


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _read_registry(path: Path) -> dict[str, RemoteModel]:
    models = {}
    for name, values in read_toml(path).items():
        if not _is_name(name) or not isinstance(values, dict):
            raise ConfigError(
                f"{path}: {name!r} must be a table [NAME] with url and sha256; NAME is letters, digits, - _ and ."
            )
        models[name] = _remote({"name": name, **values}, where=f"{path}: [{name}]")
    return models


def _remote(values: dict[str, object], *, where: str) -> RemoteModel:
    """Check the values of one model; the codebook's URL follows from the checkpoint's where none is given."""
    url = values.get("url")
    if "codebook_sha256" in values and "codebook_url" not in values:
        if not (isinstance(url, str) and url.endswith(_SUFFIX)):
            raise ConfigError(f"{where}: codebook_url is needed, as url does not end in {_SUFFIX}")
        values = {**values, "codebook_url": f"{url.removesuffix(_SUFFIX)}{_CODEBOOK}"}
    if "codebook_url" in values and "codebook_sha256" not in values:
        raise ConfigError(f"{where}: codebook_url needs codebook_sha256")
    return parse_config(RemoteModel, values, where=where)


def _unknown(text: str, remote: list[str]) -> str:
    groups = {
        "that come with the package": packaged_names(),
        f"in {cache_folder()}": cached_names(),
        "known by URL": remote,
    }
    listed = "; ".join(f"{', '.join(names)} ({where})" for where, names in groups.items() if names)
    names = [name for group in groups.values() for name in group]
    hint = difflib.get_close_matches(text, names, n=1, cutoff=0.75)
    return f"there is no checkpoint {text!r}: neither a file nor one of {listed or '(none)'}" + (
        f". Did you mean {hint[0]!r}?" if hint else ""
    )
