"""The data sets that are known, read from ``sets.toml``."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from pydantic import Field

from delf_engine.config import Config, parse_config, read_toml
from delf_engine.errors import DataError

__all__ = ["KNOWN", "Definition", "definition"]


class Definition(Config):
    """A data set as it is published.

    Attributes
    ----------
    name, title, homepage, licence, citation : str
        For people.
    folder, images : str
        Its folder below that of all sets, and the folder of its images in it; splits of one set share the first.
    layout : "flat", "tree" or "letters"
        Where an image lies below `images`: all in one folder; as in the archive, without a leading ``jpg/``; or
        in folders named after its first three letters.
    count, queries : int
        Images that there are, queries included, and how many of them are queries of `ground_truth`.
    files, hashes : dict of str to str
        Files that are kept as they come, below `folder`: their addresses, and their SHA-256 where that is known.
    ground_truth, listing : str or None
        The one of `files` that is the ground truth of the revisited protocol; where there is none, the one that
        lists all images: text, or CSV with a column ``id``.
    archive, md5 : str
        Address of a part, a tar file of images, and of the file with its MD5, if any; ``{}`` is its number.
    archive_bytes : int
        Of one archive, roughly; its images take about as many again, as JPEG files do not compress further.
    first_part, last_part : int
        Numbers of the parts, as their publisher counts.
    corrupt : tuple of str
        File names that are known to be damaged as published and belong to no protocol; they are not unpacked.
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


def definition(name: str) -> Definition:
    """Return what is known of a data set.

    Raises
    ------
    DataError
        If there is none of this name.
    """
    if name in KNOWN:
        return KNOWN[name]
    hint = difflib.get_close_matches(name, KNOWN, n=1)
    meant = f". Did you mean {hint[0]!r}?" if hint else ""
    raise DataError(f"there is no data set {name!r}; known are {', '.join(KNOWN)}{meant}")


_PATH = Path(__file__).with_name("sets.toml")

#: All known data sets by name.
KNOWN = {
    name: parse_config(Definition, {"name": name, **values}, where=f"{_PATH}: {name}")
    for name, values in read_toml(_PATH).items()
}
