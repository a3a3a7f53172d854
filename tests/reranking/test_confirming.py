from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import load_profile
from delf_engine.matching import batched
from delf_engine.reranking import RankedCandidate, RerankOptions
from delf_engine.reranking.confirming import by_evidence, confirm_rankings
from delf_engine.verification import FineEvidence, fine_evidence
from helpers import random_features
from verification.answers import answer

#: Of a hit: its probability; None: it has no fine evidence; False: it was not verified.
Seen = float | bool | None


def ranked(seen: list[Seen]) -> list[RankedCandidate]:
    fine = FineEvidence(20, 20, 20)
    hits = []
    for rank, p in enumerate(seen, 1):
        found = None if p is False else answer(40, probability=0.9, accept=0.8)
        if isinstance(p, float):
            found = answer(40, probability=p, accept=0.8, fine=fine)
        hits.append(RankedCandidate(str(rank), rank, rank, None, found, None if found is None else 40.0))
    return hits


@given(st.lists(st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.none(), st.just(False))))
def test_hits_with_fine_evidence_share_their_places_by_probability(seen: list[Seen]) -> None:
    hits = ranked(seen)
    found = by_evidence(hits)
    assert [hit.rank for hit in found] == [hit.rank for hit in hits]
    places = [i for i, p in enumerate(seen) if isinstance(p, float)]
    assert [hit for i, hit in enumerate(found) if i not in places] == [
        hit for i, hit in enumerate(hits) if i not in places
    ]
    expected = sorted(places, key=lambda i: (-float(seen[i] or 0), i))
    assert [found[place].id for place in places] == [hits[i].id for i in expected]
    assert by_evidence(found) == found


def test_without_a_calibration_places_stay() -> None:
    fine = [FineEvidence(20, n, n) for n in (5, 20)]
    hits = [RankedCandidate(str(n), n, n, None, answer(40, fine=f), 40.0) for n, f in enumerate(fine, 1)]
    assert by_evidence(hits) == hits


def test_a_card_is_asked_once_a_query_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [random_features(np.random.default_rng(i), 40, 128) for i in range(4)]
    images = dict(zip("123", several, strict=False))
    hits = ranked([None, None, None, False, None])
    calls: list[str] = []
    match = batched.match_codes
    monkeypatch.setattr(batched, "match_codes", lambda *a, **k: (calls.append("asked"), match(*a, **k))[1])
    monkeypatch.setattr("delf_engine.verification.batched.CARDS", {"cpu", "cuda"})
    for device in ("cpu", "auto"):
        options = RerankOptions.of(load_profile(), confirm=3, device=device)
        (found,) = confirm_rankings({"q": hits}, lambda _: several[3], images.get, options).values()
        expected = [fine_evidence(several[3], image, config=options.fine) for image in several[:3]]
        assert [hit.verification and hit.verification.fine for hit in found] == [*expected, None, None]
    assert calls == ["asked"]
