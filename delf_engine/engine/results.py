"""What an engine answers: each prints well in a terminal and a notebook, and has `to_dict`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

from delf_engine.features import LocalFeatures
from delf_engine.reranking import RankedCandidate
from delf_engine.verification import Verification
from delf_engine.verification.result import percent


@dataclass(frozen=True)
class AddReport:
    """What became of the images given to `Engine.add` or `Engine.replace`.

    Attributes
    ----------
    added : list of str
        Ids now in the engine.
    skipped : list of str
        Ids that were there already, or given twice.
    failed : list of (id, reason)
        Images that could not be read.
    replaced : list of str
        Ids that were there already and have new features.
    """

    added: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """One line of counts."""
        replaced = f"{len(self.replaced)} replaced, " if self.replaced else ""
        return f"{len(self.added)} added, {replaced}{len(self.skipped)} already there, {len(self.failed)} failed"

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"  {image_id}: {reason}" for image_id, reason in self.failed)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "added": self.added,
            "skipped": self.skipped,
            "failed": [{"id": image_id, "reason": reason} for image_id, reason in self.failed],
            "replaced": self.replaced,
        }


@dataclass(frozen=True)
class CheckReport:
    """What `Engine.check` has read and found.

    Attributes
    ----------
    files : list of str
        Files that were compared with their checksums.
    images : list of str
        Ids whose stored features were.
    damaged_files, damaged_images : list of (path or id, reason)
    """

    files: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    damaged_files: list[tuple[str, str]] = field(default_factory=list)
    damaged_images: list[tuple[str, str]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged_files and not self.damaged_images

    def __str__(self) -> str:
        head = (
            f"{len(self.files)} files, {len(self.damaged_files)} damaged; "
            f"features of {len(self.images)} images, {len(self.damaged_images)} damaged"
        )
        return "\n".join([head, *(f"  {reason}" for _, reason in self.damaged_files + self.damaged_images)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {
            "files": len(self.files),
            "images": len(self.images),
            "damaged_files": [{"path": path, "reason": reason} for path, reason in self.damaged_files],
            "damaged_images": [{"id": image_id, "reason": reason} for image_id, reason in self.damaged_images],
        }


@dataclass(frozen=True)
class EngineInfo:
    """What an engine holds.

    Attributes
    ----------
    directory : str
    model : str
        Name and hash of the checkpoint.
    profile : str
    images : int
    dim : int
        Descriptor dimension.
    precision : "auto", "fp32" or "bf16"
        Arithmetic of extraction; "auto" until the first image is extracted, which settles it.
    store, index : dict
        What the feature store and the index say of themselves.
    """

    directory: str
    model: str
    profile: str
    images: int
    dim: int
    precision: str
    store: dict[str, Any]
    index: dict[str, Any]

    def __str__(self) -> str:
        rows = {name: getattr(self, name) for name in ("directory", "model", "profile", "images")}
        rows |= {"descriptors": f"{self.dim}-D", "precision": self.precision}
        rows |= {f"store {key}": value for key, value in self.store.items()}
        rows |= {f"index {key}": value for key, value in self.index.items() if value is not None}
        return "\n".join(f"{key:<18} {value}" for key, value in rows.items())

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SearchResult(Sequence[RankedCandidate]):
    """Hits of a search, best first.

    Attributes
    ----------
    query : str
        Name of the query.
    hits : tuple of RankedCandidate
        Each with `id`, `rank`, `score` of the candidate stage, `inliers` and `verification` (None where it
        was not verified) and `ranking_score`, by which the verified ones are ordered.
    features : LocalFeatures or None
        Features of the query: the A of each verification.
    rotation : 0, 90, 180 or 270
        Degrees by which the query was turned, counterclockwise, to find them; features and transforms are those of
        the query as it is.
    """

    query: str
    hits: tuple[RankedCandidate, ...]
    features: LocalFeatures | None = field(default=None, repr=False, compare=False)
    rotation: int = 0

    @overload
    def __getitem__(self, index: int) -> RankedCandidate: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[RankedCandidate]: ...

    def __getitem__(self, index: int | slice) -> RankedCandidate | Sequence[RankedCandidate]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    @property
    def surest(self) -> Verification | None:
        """The verification that says most; None if nothing was verified."""
        found = [hit.verification for hit in self.hits if hit.verification is not None]
        return max(found, key=lambda v: (v.same, v.probability or 0.0, v.inliers), default=None)

    @property
    def by_inliers(self) -> bool:
        """Whether every ranking score is the plain count of inliers, so that showing both tells nothing more."""
        return all(hit.ranking_score == hit.inliers for hit in self.hits)

    def table(self) -> list[tuple[str, ...]]:
        """Return the names of the columns and one row a hit, as text; columns that tell nothing are left out."""
        verified = [hit.verification for hit in self.hits]
        columns: dict[str, list[str]] = {
            "rank": [str(hit.rank) for hit in self.hits],
            "ranking": [_text(hit.ranking_score, ".2f") for hit in self.hits],
            "inliers": [_text(hit.inliers, "d") for hit in self.hits],
            "place": [hit.verdict or "" for hit in self.hits],
            "probability": [
                "" if found is None or found.probability is None else percent(found.probability)
                for found in verified
            ],
            "score": [_text(hit.score, ".4f") for hit in self.hits],
            "image": [hit.id for hit in self.hits],
        }
        if self.by_inliers:
            del columns["ranking"]
        if not any(columns["probability"]):
            del columns["probability"]
        return [tuple(columns), *zip(*columns.values(), strict=True)]

    def __str__(self) -> str:
        if not self.hits:
            return f"{self.query}: nothing found"
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]  # the last column is the image
        lines = [
            " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + f"  {name}"
            for *cells, name in rows
        ]
        turned = f", turned by {self.rotation} degrees" if self.rotation else ""
        return "\n".join([f"{self.query}{turned}:", *lines])

    def _repr_html_(self) -> str:
        names, *rows = self.table()
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        head = "".join(f"<th>{name}</th>" for name in names)
        return f"<table><caption>{html.escape(self.query)}</caption><tr>{head}</tr>{cells}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        hits = [hit.to_dict() for hit in self.hits]
        return {"query": self.query, "rotation": self.rotation, "hits": hits}


@dataclass(frozen=True)
class RerankedBatch:
    """Shortlists that an engine has re-ranked.

    Attributes
    ----------
    rankings : dict of query to list of RankedCandidate
    features : dict of query to LocalFeatures
        What was verified with: the A of each verification.
    failed : dict of query to str
        Queries that could not be read, and why.
    """

    rankings: dict[str, list[RankedCandidate]]
    features: dict[str, LocalFeatures]
    failed: dict[str, str]


def _text(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
