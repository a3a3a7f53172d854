"""What a report shows of a benchmark run: records of checked values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "BenchmarkResult",
    "Dataset",
    "Difference",
    "Figures",
    "Found",
    "Label",
    "Method",
    "Missed",
    "Quoted",
    "Stage",
]

Label: TypeAlias = Literal["easy", "hard", "junk", "negative"]


@dataclass(frozen=True)
class Dataset:
    """What was searched; ``missing`` images and queries restrict the protocol."""

    name: str
    queries: int
    images: int
    distractors: int
    ground_truth: tuple[tuple[str, str], ...]
    missing_images: tuple[str, ...]
    missing_queries: tuple[str, ...]

    @property
    def restricted(self) -> bool:
        """Whether some of the data set was not there."""
        return bool(self.missing_images or self.missing_queries)


@dataclass(frozen=True)
class Figures:
    """Of one method in one set-up, in per cent; None where there is none."""

    mean_ap: float | None
    interval: tuple[float, float] | None
    queries: int | None
    mean_precision: Mapping[str, float | None]
    average_precision: Mapping[str, float | None]


@dataclass(frozen=True)
class Difference:
    """Of mean average precision to the parent method, with its 95 % interval, in percentage points."""

    difference: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Method:
    """One way of ranking; `parent` is the one whose lists it re-ranks."""

    name: str
    parent: str | None
    seconds_per_query: float | None
    setups: Mapping[str, Figures]
    against_parent: Mapping[str, Difference]

    def mean_ap(self, setup: str) -> float | None:
        """Return the mean average precision in a set-up, if there is one."""
        figures = self.setups.get(setup)
        return None if figures is None else figures.mean_ap

    def average_precision(self, setup: str) -> Mapping[str, float | None]:
        """Return the average precision of each query in a set-up."""
        figures = self.setups.get(setup)
        return {} if figures is None else figures.average_precision


@dataclass(frozen=True)
class Found:
    """One image of a ranking."""

    id: str
    label: Label
    score: float | None
    inliers: int | None


@dataclass(frozen=True)
class Missed:
    """The first positive below the images of a ranking that are kept; `place` from 1, None: not in the ranking."""

    id: str
    place: int | None


@dataclass(frozen=True)
class Stage:
    """Time and memory of one part of the run.

    `cached` of its `items` were there before. `timed` of them were worked on in its time, which may be that of
    several runs; None: those that were not there before.
    """

    name: str
    seconds: float
    items: int | None
    cached: int | None
    peak_mb: float | None
    timed: int | None = None

    @property
    def throughput(self) -> float | None:
        """Items worked on in a second; None where there were none or took no time."""
        worked = 0 if self.items is None else self.items - (self.cached or 0)
        worked = worked if self.timed is None else self.timed
        return worked / self.seconds if worked and self.seconds else None


@dataclass(frozen=True)
class Quoted:
    """Figures of a publication, not measured in this run; in per cent."""

    system: str
    dataset: str
    medium: float | None
    hard: float | None
    source: str


@dataclass(frozen=True)
class BenchmarkResult:
    """All that a report shows, checked."""

    title: str
    command: str
    date: str
    machine: tuple[tuple[str, str], ...]
    dataset: Dataset
    configuration: tuple[tuple[str, str], ...]
    threshold: int | None
    setups: tuple[str, ...]
    methods: tuple[Method, ...]
    details: Mapping[str, Mapping[str, Mapping[str, tuple[Found, ...]]]]
    missed: Mapping[str, Mapping[str, Mapping[str, Missed]]]
    boxes: Mapping[str, tuple[float, float, float, float]]
    positives: Mapping[str, Mapping[str, int]]
    inliers: Mapping[str, tuple[Counter[int], Counter[int]]]
    stages: tuple[Stage, ...]
    published: tuple[Quoted, ...]
    notes: tuple[str, ...]

    @property
    def heading(self) -> str:
        """The title; where images are missing it says so, even if the run has forgotten it."""
        if not self.dataset.restricted or "restricted" in self.title.casefold():
            return self.title
        return f"{self.title} (restricted: images are missing)"

    @property
    def main_setup(self) -> str | None:
        """The set-up that queries are compared in: medium, or the first there is."""
        return "medium" if "medium" in self.setups else next(iter(self.setups), None)

    def best(self, setup: str) -> Method | None:
        """Return the method with the highest mean average precision; of equal ones the first."""
        rated = [(method.mean_ap(setup), method) for method in self.methods]
        return max(((ap, m) for ap, m in rated if ap is not None), key=lambda pair: pair[0], default=(0, None))[1]

    def parent_of(self, method: Method) -> Method | None:
        """Return the method whose lists `method` re-ranks."""
        return next((each for each in self.methods if each.name == method.parent), None)
