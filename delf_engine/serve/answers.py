"""What the API answers: photographs, judgements with the evidence that decided them, hits."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from delf_engine.engine.results import SearchResult
from delf_engine.engine.state import EngineState
from delf_engine.engine.views import PairAnswer
from delf_engine.features import LocalFeatures
from delf_engine.serve.database import Database, plain
from delf_engine.serve.photographs import Photograph
from delf_engine.verification import Calibration, Verification

Box = tuple[float, float, float, float]


class Photo(BaseModel):
    """A photograph: `ref` asks for it again, an id or ``upload:`` and a random name; pixels of it upright."""

    ref: str
    name: str | None
    width: int
    height: int


class Coarse(BaseModel, from_attributes=True):
    """What matches of learned features say: so many of so many agree on one transform."""

    inliers: int
    putative: int
    effective_inliers: int
    inlier_similarity: float
    model: str


class Fine(BaseModel, from_attributes=True):
    """What matches of pixel accuracy say; `details` is what counts of them."""

    details: int
    putative: int
    epipolar: int
    planar: int
    small: bool


class Judgement(BaseModel):
    """Whether two photographs show the same place, and why.

    `decided_by`: ``details`` and ``coarse`` matches by their probability, which `accept` is compared with, or the
    number of ``inliers`` where there is none. `transform` maps pixels of the first photograph to the second.
    """

    verdict: Literal["same", "different", "unsure"]
    probability: float | None
    accept: float | None
    decided_by: Literal["details", "coarse", "inliers"]
    why: str
    coarse: Coarse
    fine: Fine | None
    overlay: int
    rotation: int
    transform: list[list[float]] | None


class Pair(BaseModel):
    """The answer about two photographs: x and y in A, then in B, of what agrees.

    `matches` are the coarse inliers, `details` the fine matches that count.
    """

    a: Photo
    b: Photo
    judgement: Judgement
    matches: list[Box]
    details: list[Box]


class Hit(BaseModel):
    """An image that was found; `region` holds what of it matches: x0, y0, x1, y1 in pixels."""

    photo: Photo
    rank: int
    first_rank: int
    score: float | None
    ranking_score: float | None
    judgement: Judgement | None
    region: Box | None


class Found(BaseModel):
    """Hits, best first; `rotation` is by how much the query was turned to find them.

    `unknown` are ids of a shortlist that the engine does not have.
    """

    query: Photo
    rotation: int
    images: int
    hits: list[Hit]
    unknown: list[str] = []


def judgement(found: Verification, calibration: Calibration | None) -> Judgement:
    """Return a verification as the API tells it."""
    decided: Literal["details", "coarse", "inliers"] = "inliers"
    if found.probability is not None and calibration is not None:
        decided = "coarse" if calibration.curve_for(found) is calibration.coarse is not None else "details"
    return Judgement(
        verdict=found.verdict,
        probability=found.probability,
        accept=found.accept,
        decided_by=decided,
        why=found.why,
        coarse=Coarse.model_validate(found),
        fine=None if found.fine is None else Fine.model_validate(found.fine),
        overlay=found.overlay + (found.fine.overlay if found.fine else 0),
        rotation=found.rotation,
        transform=None if found.transform is None else found.transform.tolist(),
    )


def pair(
    a: Photograph, b: Photograph, answer: PairAnswer, calibration: Calibration | None, database: Database
) -> Pair:
    """Return the answer about two photographs."""
    found, own, other, details = answer
    names = database.names([a.ref, b.ref])
    points = np.hstack([_points(own, found, 0), _points(other, found, 1)])
    return Pair(
        a=photo(a.ref, own, names),
        b=photo(b.ref, other, names),
        judgement=judgement(found, calibration),
        matches=points.tolist(),
        details=details.tolist(),
    )


def hits(state: EngineState, query: Photograph, found: SearchResult, database: Database) -> Found:
    """Return the answer of a search."""
    assert found.features is not None
    names = database.names([query.ref, *(hit.id for hit in found.hits)])
    out = []
    all_features = state.store.get_many(hit.id for hit in found.hits)
    for hit, features in zip(found.hits, all_features, strict=True):
        seen = hit.verification
        out.append(
            Hit(
                photo=photo(hit.id, features, names),
                rank=hit.rank,
                first_rank=hit.first_rank,
                score=hit.score,
                ranking_score=hit.ranking_score,
                judgement=None if seen is None else judgement(seen, state.calibration),
                region=None if seen is None or not seen.inliers else _region(_points(features, seen, 1)),
            )
        )
    own = photo(query.ref, found.features, names)
    return Found(query=own, rotation=found.rotation, images=len(state.store), hits=out)


def photo(ref: str, features: LocalFeatures, names: dict[str, str]) -> Photo:
    """Return a photograph with the size that its features have noted."""
    width, height = features.image_size
    return Photo(ref=plain(ref), name=names.get(plain(ref)), width=width, height=height)


def _points(features: LocalFeatures, found: Verification, side: int) -> npt.NDArray[np.float64]:
    return features.keypoints[found.matches[:, side]].astype(np.float64)


def _region(points: npt.NDArray[np.float64]) -> Box:
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1
