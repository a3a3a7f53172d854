"""What a search for copies has found, what of it is superfluous, and pairs that somebody says are no copies."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal, TypeAlias

from delf_engine.errors import ConfigError, FormatError
from delf_engine.support.connected import first_connected
from delf_engine.support.files import replacing, system_errors

Kind: TypeAlias = Literal["exact", "copy", "crop", "embedded", "part", "place"]
Outline: TypeAlias = tuple[tuple[float, float], ...]
Pair: TypeAlias = frozenset[str]

#: How `Copies.superfluous` orders photographs, those to keep first, by their size and status.
_KEEP: Mapping[str, Callable[[tuple[int, int], os.stat_result], tuple[int, ...]]] = {
    "largest": lambda size, status: (-size[0] * size[1], -status.st_size),
    "oldest": lambda size, status: (status.st_mtime_ns,),
    "first": lambda size, status: (),
}


@dataclass(frozen=True)
class Copy:
    """Two photographs that were made of one, or of one place.

    Attributes
    ----------
    kind : str
        "exact": the same bytes. "copy": the same picture, resized, compressed, turned, framed or edited. "crop":
        all of b lies in a, at its size or larger. "embedded": all of b lies in a, smaller than it is. "part": they
        share a part. "place": other photographs of one place.
    a, b : str
        Their paths.
    score : float
        How well the pixels of both agree where they overlap, up to 1; of a place its probability.
    outline_a, outline_b : tuple of (x, y)
        What both show, a polygon in pixels of either; () for a place.
    """

    kind: Kind
    a: str
    b: str
    score: float
    outline_a: Outline = ()
    outline_b: Outline = ()

    @property
    def box_a(self) -> tuple[float, float, float, float] | None:
        """Box around the outline in a: x0, y0, x1, y1, pixels; None without an outline."""
        return _box(self.outline_a)

    @property
    def box_b(self) -> tuple[float, float, float, float] | None:
        """Box around the outline in b: x0, y0, x1, y1, pixels; None without an outline."""
        return _box(self.outline_b)

    def __str__(self) -> str:
        words = {
            "exact": "the same file as",
            "copy": "a copy of",
            "crop": "a crop of",
            "embedded": "embedded in",
            "part": "shares a part with",
            "place": "shows the place of",
        }
        box = self.box_a if self.kind in ("crop", "embedded", "part") else None
        at = f" at {','.join(f'{value:.0f}' for value in box)}" if box else ""
        return f"{self.b}: {words[self.kind]} {self.a}{at} ({self.score:.2f})"


@dataclass(frozen=True)
class Copies:
    """Copies among photographs, or between two sets of them.

    Attributes
    ----------
    photographs : dict of str to (width, height)
        By path, those that could be read; the first set of two first.
    copies : tuple of Copy
        Of a photograph and the largest of its exact or near copies, and of these with each other; of two sets
        those between a photograph of either.
    failed : tuple of (path, reason)
        Photographs that could not be read.
    tested : tuple of str
        Those of `photographs` that were looked for in the others; none if all were looked for among each other.
    """

    photographs: dict[str, tuple[int, int]]
    copies: tuple[Copy, ...]
    failed: tuple[tuple[str, str], ...] = ()
    tested: tuple[str, ...] = ()

    @property
    def clusters(self) -> tuple[tuple[str, ...], ...]:
        """Photographs that copies connect, the largest cluster first; each in order of path."""
        pairs = [(copy.a, copy.b) for copy in self.copies]
        members = defaultdict(list)
        for name, first in first_connected(chain.from_iterable(pairs), pairs).items():
            members[first].append(name)
        return tuple(sorted(map(tuple, members.values()), key=lambda names: (-len(names), names)))

    def superfluous(self, keep: str) -> list[tuple[str, str]]:
        """List photographs that show nothing that a kept one does not show as large, each with the one to keep.

        Exact and near copies and crops may be listed; what is embedded, or shares a part, never is. Nothing is
        deleted.

        Parameters
        ----------
        keep : "largest", "oldest" or "first"
            Of copies the one with most pixels, the one changed longest ago, or the first in order of `photographs`
            is kept; a crop is kept if it comes before its whole in that order.

        Raises
        ------
        ConfigError
            If there is no such rule.
        FormatError
            If a photograph is gone.
        """
        if keep not in _KEEP:
            raise ConfigError(f"keep must be one of {', '.join(_KEEP)}, got {keep!r}")
        shown_by = defaultdict(list)
        for copy in self.copies:
            if copy.kind in ("exact", "copy", "crop"):
                shown_by[copy.b].append(copy.a)
            if copy.kind in ("exact", "copy"):
                shown_by[copy.a].append(copy.b)
        place = {name: number for number, name in enumerate(self.photographs)}

        def first(name: str) -> tuple[int, ...]:
            with system_errors(f"{name}: is gone since"):
                return (*_KEEP[keep](self.photographs[name], os.stat(name)), place[name])

        order = sorted({name for copy in self.copies for name in (copy.a, copy.b)}, key=first)
        kept: dict[str, str] = {}  # photographs, each with the kept one that shows it
        listed = []
        for name in order:
            found = _reached(name, shown_by, kept)
            kept[name] = found or name
            if found:
                listed.append((name, found))
        return sorted(listed, key=lambda pair: place[pair[0]])

    def __str__(self) -> str:
        counts = Counter(copy.kind for copy in self.copies)
        said = ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "no copies"
        found = f"{len(self.clusters)} clusters"
        if self.tested:
            leaked = {name for copy in self.copies for name in (copy.a, copy.b)} & set(self.tested)
            found = f"{len(leaked)} of {len(self.tested)} tested ones are in the others"
        return "\n".join([f"{len(self.photographs)} photographs, {found}: {said}", *map(str, self.copies)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "photographs": len(self.photographs),
            "clusters": [list(names) for names in self.clusters],
            "copies": [{**asdict(copy), "box_a": copy.box_a, "box_b": copy.box_b} for copy in self.copies],
            "failed": [{"id": name, "reason": reason} for name, reason in self.failed],
        }


def dismiss(path: str | os.PathLike[str], photographs: Iterable[str | os.PathLike[str]]) -> int:
    """Remember in a file that photographs are no copies of each other; return how many pairs the file holds then.

    Parameters
    ----------
    path : path
        JSON lines of pairs, paths relative to it; made if it is not there.
    photographs : iterable of path
        Every two of them are remembered.

    Raises
    ------
    ConfigError
        If there are fewer than two.
    FormatError
        If the file cannot be written or is another one.
    """
    names = {os.path.abspath(name) for name in photographs}
    if len(names) < 2:
        raise ConfigError(f"it takes two photographs to be no copies of each other, got {len(names)}")
    target = Path(path)
    pairs = read_dismissed(target) if target.exists() else set()
    pairs |= {pair_of(a, b) for a, b in combinations(names, 2)}
    folder = os.path.dirname(os.path.abspath(target))
    lines = sorted(json.dumps(sorted(os.path.relpath(name, folder) for name in pair)) + "\n" for pair in pairs)
    with system_errors(f"{target}: cannot be written"), replacing(target) as partial:
        partial.write_text("".join(lines), encoding="ascii")
    return len(pairs)


def pair_of(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Pair:
    """Return the absolute paths of two photographs, in no order."""
    return frozenset((os.path.abspath(a), os.path.abspath(b)))


def read_dismissed(path: str | os.PathLike[str]) -> set[Pair]:
    """Return the pairs of absolute paths that `dismiss` has written; a `FormatError` if it is no such file."""
    folder = os.path.dirname(os.path.abspath(path))
    pairs = set()
    with system_errors(f"{path}: the pairs that are no copies cannot be read"):
        lines = Path(path).read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            a, b = (os.path.join(folder, name) for name in json.loads(line))
        except (ValueError, TypeError) as error:
            raise FormatError(f"{path}, line {number}: not a pair of paths that are no copies") from error
        pairs.add(pair_of(a, b))
    return pairs


def _reached(name: str, shown_by: Mapping[str, list[str]], kept: Mapping[str, str]) -> str | None:
    """Return the kept photograph that shows what `name` shows, by way of any others; None if there is none."""
    seen, ahead = {name}, [name]
    for step in ahead:
        for other in shown_by[step]:
            if kept.get(other) == other:
                return other
            if other not in seen:
                seen.add(other)
                ahead.append(other)
    return None


def _box(outline: Outline) -> tuple[float, float, float, float] | None:
    if not outline:
        return None
    across, down = zip(*outline, strict=True)
    return min(across), min(down), max(across), max(down)
