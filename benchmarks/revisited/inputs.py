"""What a run on a revisited set starts from: its ground truth, and the photographs that are there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from delf_engine.datasets import KNOWN
from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, load_ground_truth, restrict
from delf_engine.images import find_images
from delf_engine.support.files import file_sha256

__all__ = ["TITLES", "Inputs", "photographs", "read_inputs", "restricted"]

TITLES = {"roxford5k": "ROxford5k", "rparis6k": "RParis6k"}

#: Whose ground truth a file of this SHA-256 is.
_OFFICIAL = {
    known.hashes[known.ground_truth]: known.name for known in KNOWN.values() if known.ground_truth is not None
}
_NAMED = 10  # missing photographs, in messages


@dataclass(frozen=True)
class Inputs:
    """A set as it can be measured here.

    Attributes
    ----------
    name : str
        ``rparis6k``, or what the file of another ground truth is named after, ``gnd_NAME.pkl``; files of the run
        have it.
    official : bool
        Whether the ground truth is, byte for byte, the one that its authors distribute.
    truth : GroundTruth
        Restricted to what is there.
    ground_truth : Path
        The file it was read from.
    sha256 : str
        Of that file.
    images : mapping of name to Path
        Photographs of gallery and queries, all there are; empty where features are given.
    missing_images, missing_queries : tuple of str
        Names of the full ground truth that are left out for want of their photographs.
    left_out : tuple of str
        Queries left out on demand.
    whole : GroundTruth
        What the file says of the whole set.
    """

    name: str
    official: bool
    truth: GroundTruth
    ground_truth: Path
    sha256: str
    whole: GroundTruth
    images: Mapping[str, Path]
    missing_images: tuple[str, ...] = ()
    missing_queries: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name of the set, and that it was restricted if it was."""
        name = TITLES[self.name] if self.official else self.name
        if self.name in TITLES and not self.official:
            name = f"{self.name}, not by the official ground truth"
        images, queries = len(self.whole.names), len(self.whole)
        if not self.restricted:
            return name
        return (
            f"{name}, restricted to {len(self.truth.names):,} of {images:,} images and {len(self.truth)} of "
            f"{queries} queries"
        )

    @property
    def restricted(self) -> bool:
        """Whether some of the set is left out."""
        return (len(self.truth.names), len(self.truth)) != (len(self.whole.names), len(self.whole))


def read_inputs(
    name: str,
    ground_truth: Path,
    images: Mapping[str, Path],
    *,
    known: Collection[str],
    known_queries: Collection[str],
    allow_missing: bool,
    without: Sequence[str] = (),
    where: object,
) -> Inputs:
    """Read a ground truth and hold it against what is there.

    Parameters
    ----------
    name : str
        The set that is meant.
    ground_truth : Path
        Of it, or one of one's own.
    images : mapping of name to Path
    known, known_queries : collections of str
        Images and queries that can be measured: whose photographs or features are there.
    allow_missing : bool
    without : sequence of str
        Queries to leave out.
    where : object
        What was looked through, named in errors.

    Raises
    ------
    DataError
        If the ground truth is of another set, or images are missing and `allow_missing` is not set.
    FormatError
        If the ground truth cannot be read.
    """
    truth = load_ground_truth(ground_truth)
    digest = file_sha256(ground_truth)
    official = _OFFICIAL.get(digest)
    if official not in (None, name):
        raise DataError(
            f"{ground_truth}: is that of {TITLES.get(str(official), official)}, not of {TITLES[name]}; "
            f"use the other script, or give gnd_{name}.pkl"
        )
    unknown = sorted(set(without) - set(truth.query_names))
    if unknown:
        raise DataError(f"--without-query {unknown[0]}: {ground_truth} has no such query")
    found = name if official else ground_truth.stem.removeprefix("gnd_")
    full = Inputs(found, official is not None, truth, ground_truth, digest, truth, images, left_out=tuple(without))
    gone = [image for image in truth.names if image not in known]
    gone_queries = [query for query in truth.query_names if query not in known_queries]
    if len(gone) == len(truth.names):
        raise DataError(
            f"{where}: holds none of the {len(truth.names):,} images of {ground_truth}, such as "
            f"{truth.names[0]}; is it the ground truth of another set?"
        )
    _check_missing([*gone, *gone_queries], allow_missing, where)
    return restricted(full, gone, gone_queries)


def restricted(inputs: Inputs, images: Iterable[str], queries: Iterable[str]) -> Inputs:
    """Return the inputs without some images and queries, which count as missing.

    Raises
    ------
    DataError
        If nothing is left.
    """
    gone, gone_queries = dict.fromkeys(images), dict.fromkeys(queries)
    names = [name for name in inputs.truth.names if name not in gone]
    asked = [name for name in inputs.truth.query_names if name not in gone_queries and name not in inputs.left_out]
    if not names or not asked:
        raise DataError(f"nothing is left to measure: {len(names)} images and {len(asked)} queries")
    return replace(
        inputs,
        truth=restrict(inputs.truth, names, asked),
        missing_images=(*inputs.missing_images, *gone),
        missing_queries=(*inputs.missing_queries, *gone_queries),
    )


def photographs(folder: Path) -> dict[str, Path]:
    """Return the photographs below a folder by their names without ending, as the ground truths name them.

    Raises
    ------
    DataError
        If there is no such folder, no photograph in it, or two of one name.
    """
    found: dict[str, Path] = {}
    for path in map(Path, find_images([folder])):
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} have the same name; the ground truth knows one")
        found[path.stem] = path
    return found


def _check_missing(missing: Sequence[str], allowed: bool, where: object) -> None:
    if not missing:
        return
    listed = "\n".join(f"  {name}" for name in missing[:_NAMED])
    more = f"\n  and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
    text = f"{where}: {len(missing):,} images are missing:\n{listed}{more}"
    if not allowed:
        raise DataError(
            f"{text}\nNothing was done. Get them (delf-engine data get), or say --allow-missing to restrict the "
            "protocol to what is there"
        )
    Console(stderr=True).print(
        f"{text}\nthe protocol is restricted to what is there", highlight=False, markup=False
    )
