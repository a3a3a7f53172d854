"""Fine evidence for the first hits of rankings: they get a verdict out of all evidence, and are ordered by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import RankedCandidate, Reader
from delf_engine.reranking.options import RerankOptions
from delf_engine.verification import FineEvidence, evidence_of_pairs, with_evidence

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
        coarse = [hit for hit in hits[:count] if hit.verification is not None and hit.verification.fine is None]
        self._ask([hit.id for hit in coarse])
        return [self._confirmed(hit) if place < count else hit for place, hit in enumerate(hits)]

    def _confirmed(self, hit: Hit) -> Hit:
        evidence = self._found.get(hit.id)
        if hit.verification is None or hit.verification.fine is not None or evidence is None:
            return hit
        found = with_evidence(hit.verification, evidence)
        calibration = self._options.calibration
        return replace(hit, verification=found if calibration is None else calibration.judged(found))

    def _ask(self, ids: Sequence[str]) -> None:
        """Find the evidence of images that were not asked yet."""
        query, options = self._query, self._options
        if query is None:
            return
        new = {image_id: self._read(image_id) for image_id in ids if image_id not in self._found}
        there = {image_id: image for image_id, image in new.items() if image is not None}
        pairs = [(query, image) for image in there.values()]
        found = evidence_of_pairs(pairs, config=options.fine, seed=options.seed, device=options.device)
        self._found |= {**dict.fromkeys(new), **dict(zip(there, found, strict=True))}


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
