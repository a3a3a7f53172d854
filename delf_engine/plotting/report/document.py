"""From templates to a file: names made safe, sections within a size, a page written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from delf_engine.errors import ConfigError
from delf_engine.support.files import replacing, system_errors
from delf_engine.verification.result import percent

__all__ = ["Written", "check_path", "counted", "fitting", "page_templates", "short_name", "write_page"]

_TEMPLATES = Path(__file__).parent.parent / "templates"

# Not allowed in HTML, and those that turn the direction of writing: a name could pose as another.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Written:
    """What a page holds.

    Attributes
    ----------
    queries : int
        Shown on the page.
    of : int
        Queries there were.
    bytes : int
        Size of the file.
    """

    queries: int
    of: int
    bytes: int


@cache
def page_templates(*folders: Path) -> Environment:
    """Return the templates of pages, and those in further folders, which may extend them.

    Whatever a template writes is only ever text: jinja2 escapes it, and characters that HTML forbids, surrogates
    of file names that are not UTF-8 among them, become the replacement character.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(counted=counted, percent=percent, short_name=short_name, sha256=_sha256)
    return environment


def _readable(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _sha256(text: str) -> str:
    """Return a hash as a content security policy writes it."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def counted(number: int, what: str) -> str:
    """Return a number of things, in the plural where there is not just one."""
    if number == 1:
        return f"{number:,} {what}"
    return f"{number:,} {what[:-1]}ies" if what.endswith("y") else f"{number:,} {what}s"


def short_name(image_id: str) -> str:
    """Return the last part of an id that is a path, or the id."""
    return os.path.basename(image_id.rstrip("/")) or image_id


def fitting(sections: Iterable[str], max_bytes: int) -> tuple[list[Markup], bool]:
    """Return the first of some rendered sections that together stay within a size, and whether one did not."""
    kept: list[Markup] = []
    size = 0
    for section in sections:
        size += len(section.encode("utf-8"))
        if size > max_bytes:
            return kept, True
        kept.append(Markup(section))
    return kept, False


def check_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page, before any work is done for it.

    Raises
    ------
    ConfigError
        If its name does not end in .html or .htm, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{path}: the name of a report must end in .html")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written: there is no folder {path.parent}")
    return path


def write_page(path: Path, page: str) -> int:
    """Write a page whole or not at all, and return its size in bytes.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    content = page.encode("utf-8")
    with system_errors(f"{path}: cannot be written", ConfigError), replacing(path) as partial:
        partial.write_bytes(content)
    return len(content)
