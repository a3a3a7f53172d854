"""Fine evidence for the first hits of rankings: they get a verdict out of all evidence, and are ordered by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import RankedCandidate, Reader
from delf_engine.reranking.options import RerankOptions
from delf_engine.verification import FineEvidence, fine_evidence, with_evidence

Hit = TypeVar("Hit", bound=RankedCandidate)


class Confirmer:
    """Gives the hits of one query fine evidence; each image is asked once, however often it is ranked anew.

    Parameters
    ----------
    query : LocalFeatures or None
        Fine features of the query; None: there is no fine evidence.
    read : function
        From the id of an image to its fine features, or to None.
    options : RerankOptions
        How fine features are matched, the seed and the calibration.
    """

    def __init__(self, query: LocalFeatures | None, read: Reader, options: RerankOptions) -> None:
        self._query, self._read, self._options = query, read, options
        self._found: dict[str, FineEvidence | None] = {}

    def __call__(self, hits: Sequence[Hit], count: int) -> list[Hit]:
        """Return hits, the first `count` with fine evidence as far as they are verified, in its order."""
        return by_evidence(self.confirmed(hits, count))

    def confirmed(self, hits: Sequence[Hit], count: int) -> list[Hit]:
        """Return hits in their order, the first `count` with fine evidence as far as they are verified."""
        return [self._confirmed(hit) if place < count else hit for place, hit in enumerate(hits)]

    def _confirmed(self, hit: Hit) -> Hit:
        if hit.verification is None or hit.verification.fine is not None:
            return hit
        evidence = self._evidence(hit.id)
        if evidence is None:
            return hit
        found = with_evidence(hit.verification, evidence)
        calibration = self._options.calibration
        return replace(hit, verification=found if calibration is None else calibration.judged(found))

    def _evidence(self, image_id: str) -> FineEvidence | None:
        if self._query is not None and image_id not in self._found:
            image = self._read(image_id)
            self._found[image_id] = (
                None
                if image is None
                else fine_evidence(self._query, image, config=self._options.fine, seed=self._options.seed)
            )
        return self._found.get(image_id)


def by_evidence(hits: Sequence[Hit]) -> list[Hit]:
    """Return hits, those with fine evidence ordered by their probability; all others keep their places.

    Equal ones, such as all without a calibration, stay in their order, which is that of the ranking score.
    """
    sure = {
        place: hit.verification.probability or 0.0
        for place, hit in enumerate(hits)
        if hit.verification is not None and hit.verification.fine is not None
    }
    out = list(hits)
    for place, best in zip(sure, sorted(sure, key=lambda place: -sure[place]), strict=True):
        out[place] = replace(hits[best], rank=hits[place].rank)
    return out


def confirm_rankings(
    rankings: Mapping[str, Sequence[Hit]], queries: Reader, images: Reader, options: RerankOptions
) -> dict[str, list[Hit]]:
    """Return rankings, the first `options.confirm` hits of each with fine evidence and in its order.

    Those of which query or image have no features keep their places.
    """
    out = {}
    for query, hits in rankings.items():
        own = queries(query) if options.confirm and hits else None
        out[query] = Confirmer(own, images, options)(hits, options.confirm)
    return out
