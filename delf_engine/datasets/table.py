"""The data sets that are known: where their publishers keep them, how large they are, what may be done with them.

A checksum stands here only where the publisher gives one, or for a file of which an official copy was at hand. The
sizes of archives are rounded figures for the announcement before a download and for the check of the disk; what
counts in the end is the length that the server states.

Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
CVPR 2018. Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2, CVPR 2020.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from delf_engine.errors import ConfigError, DataError

__all__ = ["KNOWN", "Archive", "Definition", "Layout", "RemoteFile", "definition", "parse_parts"]

Layout: TypeAlias = Literal["flat", "tree", "letters"]


@dataclass(frozen=True)
class RemoteFile:
    """A file that is kept as it comes.

    Attributes
    ----------
    url : str
    path : str
        Where it is put, below the set's folder.
    sha256 : str or None
        Of its bytes, where that is known for certain.
    """

    url: str
    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Archive:
    """A tar file of images, plain or compressed.

    Attributes
    ----------
    url : str
    about : int
        Its bytes, roughly. The images of it take about as many again: JPEG files do not compress further.
    md5_url : str or None
        Where the publisher keeps its MD5, if anywhere.
    """

    url: str
    about: int
    md5_url: str | None = None

    @property
    def name(self) -> str:
        """The last part of its address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Definition:
    """All that is known of a data set before it is there.

    Attributes
    ----------
    name, title, homepage, licence, citation : str
        For people.
    folder : str
        Its folder below the root.
    images : str
        The folder of its images, below `folder`.
    layout : "flat", "tree" or "letters"
        Where an image lies below `images`: all in one folder; as in the archive; or in folders named after the
        first three letters of its name.
    files : tuple of RemoteFile
    archives : tuple of Archive
        The parts, numbered from `first_part` on as their publisher numbers them.
    count : int
        Images that there are, queries included.
    queries : int
        How many of them are queries, where there is a ground truth.
    ground_truth : str or None
        Path of the ground truth of the revisited protocol, if there is one.
    listing : str or None
        Path of the list of images, where no ground truth has it: a text file, or CSV with a column ``id``.
    solution : str or None
        Path of the retrieval ground truth of Google Landmarks.
    first_part : int
    corrupt : frozenset of str
        File names that are known to be damaged as published and belong to no protocol; they are not unpacked.
    """

    name: str
    title: str
    folder: str
    images: str
    layout: Layout
    files: tuple[RemoteFile, ...]
    archives: tuple[Archive, ...]
    count: int
    homepage: str
    licence: str
    citation: str
    queries: int = 0
    ground_truth: str | None = None
    listing: str | None = None
    solution: str | None = None
    first_part: int = 1
    corrupt: frozenset[str] = frozenset()

    @property
    def numbers(self) -> range:
        """The numbers of its parts."""
        return range(self.first_part, self.first_part + len(self.archives))

    def archive(self, number: int) -> Archive:
        """Return the part of this number."""
        return self.archives[number - self.first_part]


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


def parse_parts(text: str, known: Definition) -> tuple[int, ...]:
    """Read numbers of parts such as ``0-9,12``; return them ascending, each once.

    Raises
    ------
    ConfigError
        If it is not written like that, or the set has no such part.
    """
    first, last = known.numbers[0], known.numbers[-1]
    numbers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", piece)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if low > high:
            raise ConfigError(f"parts are numbers and ranges such as 0-9,12; got {text!r}")
        if low < first or high > last:
            raise ConfigError(f"{known.name} has the parts {first} to {last}, not {piece.strip()}")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


# --------------------------------------------------------------------------------------------------- the table

_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
_LANDMARKS = "https://s3.amazonaws.com/google-landmark"

_FLICKR = "photographs from Flickr, the copyright is their authors'; distributed for research, not to be passed on"
_REVISITED_PAPER = (
    "Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval "
    "Benchmarking, CVPR 2018"
)
_LANDMARKS_LICENCE = (
    "annotation: CC BY 4.0 (Google); images: CC0 or public domain as the publisher states, without warranty"
)
_LANDMARKS_PAPER = (
    "Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2 - A Large-Scale Benchmark for Instance-Level "
    "Recognition and Retrieval, CVPR 2020"
)

# http://www.robots.ox.ac.uk/~vgg/data/parisbuildings/corrupt.txt; none is in the revisited ground truth.
_CORRUPT = """
louvre_000136 louvre_000146 moulinrouge_000422 museedorsay_001059 notredame_000188 pantheon_000284 pantheon_000960
pantheon_000974 pompidou_000195 pompidou_000196 pompidou_000201 pompidou_000467 pompidou_000640 sacrecoeur_000299
sacrecoeur_000330 sacrecoeur_000353 triomphe_000662 triomphe_000833 triomphe_000863 triomphe_000867
"""


def _ground_truth(name: str, sha256: str) -> RemoteFile:
    return RemoteFile(f"{_REVISITED}/{name}/gnd_{name}.pkl", f"gnd_{name}.pkl", sha256)


def _landmarks(split: str, parts: int, about: int, count: int) -> Definition:
    """Return one of the two splits of Google Landmarks v2 that retrieval is measured on."""
    archives = (
        Archive(
            f"{_LANDMARKS}/{split}/images_{part:03}.tar",
            about,
            f"{_LANDMARKS}/md5sum/{split}/md5.images_{part:03}.txt",
        )
        for part in range(parts)
    )
    paths = (
        f"metadata/{split}.csv",
        "ground_truth/retrieval_solution_v2.1.csv",
        "ground_truth/recognition_solution_v2.1.csv",
    )
    return Definition(
        name=f"gldv2-{split}",
        title=f"Google Landmarks v2, {'gallery' if split == 'index' else 'queries'}",
        folder="gldv2",
        images=split,
        layout="letters",
        files=tuple(RemoteFile(f"{_LANDMARKS}/{path}", path) for path in paths),
        archives=tuple(archives),
        count=count,
        homepage="https://github.com/cvdfoundation/google-landmark",
        licence=_LANDMARKS_LICENCE,
        citation=_LANDMARKS_PAPER,
        listing=paths[0],
        solution=paths[1],
        first_part=0,
    )


_ALL = (
    Definition(
        name="roxford5k",
        title="Revisited Oxford",
        folder="roxford5k",
        images="jpg",
        layout="flat",
        files=(_ground_truth("roxford5k", "ba7967754bd2d7d2210a5799f9c45ad5835e269a80ef9d3eba44caa35816c471"),),
        archives=(Archive(f"{_VGG}/oxbuildings/oxbuild_images-v1.tgz", 1_950_000_000),),
        count=5063,
        queries=70,
        ground_truth="gnd_roxford5k.pkl",
        homepage="http://cmp.felk.cvut.cz/revisitop/",
        licence=_FLICKR,
        citation=f"{_REVISITED_PAPER}; Philbin, Chum, Isard, Sivic, Zisserman: Object Retrieval with Large "
        "Vocabularies and Fast Spatial Matching, CVPR 2007",
    ),
    Definition(
        name="rparis6k",
        title="Revisited Paris",
        folder="rparis6k",
        images="jpg",
        layout="flat",
        files=(_ground_truth("rparis6k", "d2e729a5293dda7dda8a15c8383424a42e4964a2c4cfea2f32fa85d11d2df499"),),
        archives=tuple(Archive(f"{_VGG}/parisbuildings/paris_{part}-v1.tgz", 1_300_000_000) for part in (1, 2)),
        count=6392,
        queries=70,
        ground_truth="gnd_rparis6k.pkl",
        homepage="http://cmp.felk.cvut.cz/revisitop/",
        licence=_FLICKR,
        citation=f"{_REVISITED_PAPER}; Philbin, Chum, Isard, Sivic, Zisserman: Lost in Quantization: Improving "
        "Particular Object Retrieval in Large Scale Image Databases, CVPR 2008",
        corrupt=frozenset(f"paris_{name}.jpg" for name in _CORRUPT.split()),
    ),
    Definition(
        name="revisitop1m",
        title="1M distractors for both",
        folder="revisitop1m",
        images="jpg",
        layout="tree",
        files=(RemoteFile(f"{_DISTRACTORS}/revisitop1m.txt", "revisitop1m.txt"),),
        # The publisher states no size; users report more than 400 GB for all of it.
        archives=tuple(
            Archive(f"{_DISTRACTORS}/jpg/revisitop1m.{part}.tar.gz", 4_500_000_000) for part in range(1, 101)
        ),
        count=1_001_001,
        homepage="http://cmp.felk.cvut.cz/revisitop/",
        licence=_FLICKR,
        citation=_REVISITED_PAPER,
        listing="revisitop1m.txt",
    ),
    _landmarks("index", 100, 850_000_000, 761_757),
    _landmarks("test", 20, 500_000_000, 117_577),
)

KNOWN: dict[str, Definition] = {known.name: known for known in _ALL}
"""All known data sets by name."""
