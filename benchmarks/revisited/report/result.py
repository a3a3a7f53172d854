"""What a report shows of a benchmark run: the JSON that the run has written, checked. Figures are in per cent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from delf_engine.errors import FormatError
from delf_engine.support.files import system_errors

__all__ = ["BenchmarkResult", "Difference", "Figures", "Found", "Method", "Stage", "flat", "read_result"]

Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Of = TypeVar("Of")
PerCent = Annotated[float, Field(ge=0, le=100 + 1e-6)]  # a mean of many 100s may lie above it by rounding


class _Part(BaseModel):
    """A part of a result: no silent conversions, finite numbers; what no report shows is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class PerSetup(_Part, Generic[Of]):
    """One value for each set-up of the revisited protocol."""

    easy: Of
    medium: Of
    hard: Of

    def __getitem__(self, setup: str) -> Of:
        return {"easy": self.easy, "medium": self.medium, "hard": self.hard}[setup]


class Missing(_Part):
    """What of the data set was not there."""

    images: list[str]
    queries: list[str]


class Dataset(_Part):
    """What was searched; missing images and queries restrict the protocol."""

    name: str
    queries: Count
    images: Count
    distractors: Count
    ground_truth: dict[str, Any]
    missing: Missing


class Figures(_Part):
    """Of one method in one set-up; None where no query, or not this one, has a positive."""

    mean_ap: PerCent | None
    interval_95: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    queries: Count
    mean_precision: dict[str, PerCent | None]
    average_precision: dict[str, PerCent | None]

    def rated(self) -> list[tuple[float, str]]:
        """Return average precision and name of the queries that have one, the lowest first, equal ones by name."""
        return sorted((ap, query) for query, ap in self.average_precision.items() if ap is not None)


class Difference(_Part):
    """Of mean average precision to the parent method, with its 95 % interval, in percentage points."""

    difference: float
    low: float
    high: float


class Method(_Part):
    """One way of ranking; `parent` is the one whose lists it re-ranks."""

    name: str
    parent: str | None
    seconds_per_query: Seconds | None
    setups: PerSetup[Figures]
    against_parent: PerSetup[Difference | None] | None


class Found(_Part):
    """One image of a ranking."""

    id: str
    label: Literal["easy", "hard", "junk", "negative"]
    score: float | None
    inliers: Count | None


class Missed(_Part):
    """The first positive below the images of a ranking that are kept; `rank` None: not in the ranking."""

    id: str
    rank: Annotated[int, Field(ge=1)] | None


class Query(_Part):
    """A query: its box x0, y0, x1, y1 in pixels, and how many positives it has in each set-up."""

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    positives: PerSetup[Count]


class Inliers(_Part):
    """Inliers of every pair that was verified: of those that show one place, and of the others."""

    positives: list[Count]
    negatives: list[Count]


class Stage(_Part):
    """Time and memory of one part of the run.

    `cached` of its `items` were there before; `timed` of them were worked on in its time, in this run or before.
    """

    name: str
    seconds: Seconds
    items: Count
    cached: Count
    timed: Count
    peak_mb: Seconds | None


class Quoted(_Part):
    """Figures of a publication, not measured in this run."""

    system: str
    dataset: str
    medium: PerCent
    hard: PerCent
    source: str


class BenchmarkResult(_Part):
    """All that a report shows. `details` and `missed` are by method, set-up and query; `inliers` by method."""

    title: str
    command: str
    date: str
    machine: dict[str, Any]
    dataset: Dataset
    configuration: dict[str, Any]
    methods: list[Method]
    details: dict[str, dict[str, dict[str, list[Found]]]]
    missed: dict[str, dict[str, dict[str, Missed]]]
    queries: dict[str, Query]
    inliers: dict[str, Inliers]
    stages: list[Stage]
    published: list[Quoted]
    notes: list[str]

    @model_validator(mode="after")
    def _methods_are_known(self) -> BenchmarkResult:
        names = [method.name for method in self.methods]
        parents = [method.parent for method in self.methods if method.parent is not None]
        for name in (*parents, *self.details, *self.missed, *self.inliers):
            if names.count(name) != 1:
                raise ValueError(f"the method {name!r} stands {names.count(name)} times among methods")
        return self

    @property
    def best(self) -> Method | None:
        """The method with the highest mean average precision in Medium; of equal ones the first."""
        rated = [(ap, method) for method in self.methods if (ap := method.setups.medium.mean_ap) is not None]
        return max(rated, key=lambda pair: pair[0])[1] if rated else None

    def parent_of(self, method: Method | None) -> Method | None:
        """Return the method whose lists `method` re-ranks."""
        return next((each for each in self.methods if method is not None and each.name == method.parent), None)

    @property
    def threshold(self) -> int | None:
        """The number of inliers that counts as the same place, where all systems of the run have one."""
        said = {value for name, value in flat(self.configuration) if name.endswith(".verification.min_inliers")}
        return int(said.pop()) if len(said) == 1 else None


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested plain values as dotted names and texts, in their order."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return rows


def read_result(path: str | os.PathLike[str]) -> BenchmarkResult:
    """Read the JSON that a benchmark run has written.

    Raises
    ------
    FormatError
        If the file cannot be read, is no JSON, or is no result of a benchmark run. It names the keys.
    """
    with system_errors(f"{path}: cannot be read"):
        content = Path(path).read_bytes()
    try:
        return BenchmarkResult.model_validate_json(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)[:3]
        lines = [f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}" for problem in problems]
        raise FormatError(f"{path}: is no result of a benchmark run: {'; '.join(lines)}") from None
