"""What a server is started with: where it listens, who may ask, and how much of anything it takes."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from delf_engine.config import Config
from delf_engine.config.base import Count, Positive
from delf_engine.errors import ConfigError
from delf_engine.support.threads import usable_cores

#: The environment variable that holds the token.
TOKEN = "DELF_ENGINE_TOKEN"
_SHORTEST_TOKEN = 16
_MIB = 1 << 20


class Settings(Config):
    """Options of a server; see `create_app`.

    Attributes
    ----------
    directory : path or address
        The engine's directory. Uploads, verdicts and jobs are kept in ``serve/`` inside. Or a plan of shards.
    actors : int or None
        Of Ray, that search the parts of a plan (`delf_engine.shards.ray.Searcher`); parts are only read. None: an
        engine is served.
    host, port : str, int
        Where it listens. Any host but a loopback one needs a token.
    token : SecretStr or None
        What requests must carry as ``Authorization: Bearer``; None: nobody is asked. See `read_token`.
    readonly : bool
        Nothing of the engine, and no verdict, is changed; uploads lie in a temporary folder.
    cors : tuple of str
        Origins, such as ``https://example.org``, whose pages may ask; all others may not.
    folders : dict of name to path
        Folders of the machine that clients may have added, by their names only.
    max_bytes : int
        Of one photograph.
    max_pixels : int
        Of one photograph: looked up before it is decoded.
    max_files : int
        Photographs of one upload.
    max_upload_bytes : int
        Of one upload of many.
    kept_bytes : int
        Of uploaded queries: beyond, the oldest are deleted. They are kept for a day at most.
    threads : int
        Searches at a time.
    decoders : int
        Processes that decode what was uploaded.
    queue : int
        Searches that wait; more are refused. So are more than this many jobs.
    seconds : float
        For an answer, waiting included, and for a body to arrive, with a second more for each 64 KiB.
    """

    directory: Path | str
    actors: Count | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    token: SecretStr | None = None
    readonly: bool = False
    cors: tuple[str, ...] = ()
    folders: dict[str, Path] = Field(default_factory=dict)
    max_bytes: Count = 32 * _MIB
    max_pixels: Count = 64_000_000
    max_files: Count = 1000
    max_upload_bytes: Count = 1024 * _MIB
    kept_bytes: Count = 1024 * _MIB
    threads: Count = Field(default_factory=usable_cores)
    decoders: Count = 2
    queue: Count = 32
    seconds: Positive = 60.0

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from other machines: that needs a token, in {TOKEN} or a file "
                "(--token-file)"
            )
        if self.token is not None and len(self.token.get_secret_value()) < _SHORTEST_TOKEN:
            raise ValueError(f"a token has at least {_SHORTEST_TOKEN} characters")
        if self.actors is not None and not self.readonly:
            raise ValueError("parts are only read: actors need readonly (--read-only)")
        for origin in self.cors:
            if not re.fullmatch(r"https?://[^/?#\s]+", origin):
                raise ValueError(f"{origin!r} is no origin such as https://example.org, which ends in no slash")
        for name, path in self.folders.items():
            if not path.is_dir():
                raise ValueError(f"folder {name}: there is no folder {path}")
        return self


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone: ``localhost``, or a loopback address; no other name is."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: str | os.PathLike[str] | None) -> SecretStr | None:
    """Read the token from a file, or else from the environment; None if it is in neither.

    A `ConfigError` if the file cannot be read or holds nothing.
    """
    if path is None:
        given = os.environ.get(TOKEN, "").strip()
        return SecretStr(given) if given else None
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{os.fspath(path)}: the token cannot be read: {error}") from error
    if not text:
        raise ConfigError(f"{os.fspath(path)}: holds no token")
    return SecretStr(text)
