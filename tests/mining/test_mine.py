from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.engine import Engine
from delf_engine.errors import ConfigError, DataError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.mining import mine
from delf_engine.mining.mine import Mined, mine_pairs, strongest
from delf_engine.reranking import RankedCandidate
from delf_engine.verification import FineEvidence, verify_features
from helpers import raises, random_features
from mining.moving import TURNED, moved

Make = Callable[[dict[str, LocalFeatures]], Engine]


@pytest.fixture(scope="module")
def folder() -> dict[str, LocalFeatures]:
    """Two places of three photographs each, a resized copy of one, two others, one without features."""
    rng = np.random.default_rng(0)
    features: dict[str, LocalFeatures] = {}
    for place in ("x", "y"):
        first = random_features(rng, 150)
        shift = np.array([[1.1, 0, -50], [0, 1.1, 20], [0, 0, 1]])
        features |= {f"{place}1": first}
        features |= {f"{place}{n}": moved(rng, first, h, noise=1) for n, h in ((2, TURNED), (3, shift))}
    features["x1 small"] = moved(rng, features["x1"], np.diag([0.5, 0.5, 1]), size=(320, 240))
    features |= {f"alone{n}": random_features(rng, 150) for n in (1, 2)}
    features["empty"] = random_features(rng, 0)
    return features


def same_pairs(a: Mined, b: Mined) -> bool:
    return len(a.pairs) == len(b.pairs) and all(
        (p.a, p.b) == (q.a, q.b)
        and np.array_equal(p.homography, q.homography)
        and np.array_equal(p.points, q.points)
        for p, q in zip(a.pairs, b.pairs, strict=True)
    )


def test_pairs_are_those_of_an_exhaustive_comparison(engine_of: Make, folder: dict[str, LocalFeatures]) -> None:
    names = list(folder)
    engine = engine_of(folder)
    found = mine_pairs(engine, names, keep_duplicates=True)
    config = engine.manifest.profile.verification
    expected = [
        (a, b)
        for a, b in combinations(names, 2)
        if verify_features(engine.get(a), engine.get(b), config=config).same
    ]
    assert [(pair.a, pair.b) for pair in found.pairs] == expected
    assert len(expected) == 3 + 3 + 3
    assert {pair.a[0] + pair.b[0] for pair in found.pairs} == {"xx", "yy"}
    assert found.groups == (4, 3)
    assert found.alone == ("alone1", "alone2", "empty")
    assert (found.proposed, found.same) == (9, 9)
    assert (found.duplicates, found.uneven, found.surplus) == (0, 0, 0)


def test_a_resized_copy_is_no_pair(engine_of: Make, folder: dict[str, LocalFeatures]) -> None:
    engine = engine_of(folder)
    found = mine_pairs(engine, list(folder))
    assert ("x1", "x1 small") not in [(pair.a, pair.b) for pair in found.pairs]
    assert found.duplicates == 1
    assert len(found.pairs) == 8


def test_same_bits_in_any_order_of_adding_and_with_any_workers(
    engine_of: Make, folder: dict[str, LocalFeatures]
) -> None:
    first = mine_pairs(engine_of(folder), list(folder), workers=1)
    backwards = engine_of(dict(reversed(folder.items())))
    assert same_pairs(first, mine_pairs(backwards, list(folder), workers=2))
    assert not same_pairs(first, mine_pairs(backwards, list(folder)[::-1], workers=1))  # a and b change places


def test_other_photographs_of_the_engine_stay_out(engine_of: Make, folder: dict[str, LocalFeatures]) -> None:
    names = ["x1", "y1", "x3"]
    found = mine_pairs(engine_of(folder), names, per_photo=1)
    assert [(pair.a, pair.b) for pair in found.pairs] == [("x1", "x3")]
    assert found.alone == ("y1",)


def test_look_alikes_are_of_other_folders_and_places(engine_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(rankings: dict[str, list[RankedCandidate]], *_: object) -> dict[str, list[RankedCandidate]]:
        """No detail of any pair agrees."""
        nothing = FineEvidence(putative=100, epipolar=8, planar=4)
        return {
            query: [
                replace(
                    h,
                    verification=h.verification if h.verification.same else replace(h.verification, fine=nothing),
                )
                for h in hits
                if h.verification is not None
            ]
            for query, hits in rankings.items()
        }

    monkeypatch.setattr(mine, "confirm_rankings", denied)
    rng = np.random.default_rng(0)
    first, other = random_features(rng, 150), random_features(rng, 150)

    def resembling(features: LocalFeatures, alike: int) -> LocalFeatures:
        """The first of the features as they are, the others of another place."""
        strange = random_features(rng, len(features))
        columns = [
            np.r_[mine[:alike], theirs[alike:]]
            for mine, theirs in (
                (features.keypoints, strange.keypoints),
                (features.scales, strange.scales),
                (features.scores, features.scores),
                (features.descriptors, strange.descriptors),
            )
        ]
        return LocalFeatures(*columns, features.image_size)

    few = 25  # less than the verdict asks for, enough to train on
    folder = {
        "p/a.jpg": first,
        "p/b.jpg": resembling(first, few),
        "q/c.jpg": resembling(first, few),
        "q/d.jpg": moved(rng, first, TURNED),
        "q/e.jpg": other,
        "r/f.jpg": resembling(other, few),
    }
    found = mine_pairs(engine_of(folder), list(folder))
    assert [(pair.a, pair.b) for pair in found.pairs] == [("p/a.jpg", "q/d.jpg")]
    assert ("p/a.jpg", "q/c.jpg") in found.alike
    assert ("q/e.jpg", "r/f.jpg") in found.alike
    assert ("p/a.jpg", "p/b.jpg") not in found.alike  # of one folder
    assert ("p/a.jpg", "q/d.jpg") not in found.alike


def test_pairs_of_two_hops_come_behind_the_others(engine_of: Make) -> None:
    rng = np.random.default_rng(0)
    first = random_features(rng, 150)
    # Neither half shows anything of the other; the second photograph shows both, on one plane.
    columns = [first.keypoints, first.scales, first.scores, first.descriptors]
    halves = [
        LocalFeatures(*(c[part] for c in columns), first.image_size) for part in (slice(0, 75), slice(75, 150))
    ]
    folder = {"a": halves[0], "b": moved(rng, first, TURNED), "c": halves[1]}
    found = mine_pairs(engine_of(folder), list(folder))
    assert [(pair.a, pair.b) for pair in found.pairs] == [("a", "b"), ("b", "c"), ("a", "c")]
    assert found.hops == 1
    np.testing.assert_allclose(found.pairs[2].homography, np.eye(3), atol=0.5)
    points = found.pairs[2].points
    assert np.linalg.norm(points[:, :2] - points[:, 2:], axis=1).max() < 5
    assert found.groups == (3,)


def test_few_candidates_and_few_pairs(engine_of: Make, folder: dict[str, LocalFeatures]) -> None:
    engine = engine_of(folder)
    everything = mine_pairs(engine, list(folder))
    one = mine_pairs(engine, list(folder), per_photo=1)
    assert one.compared < everything.compared <= len(folder) * (len(folder) - 1) // 2
    few = mine_pairs(engine, list(folder), max_pairs=5)
    assert (len(few.pairs), few.surplus) == (5, 3)
    assert {(p.a, p.b) for p in few.pairs} < {(p.a, p.b) for p in everything.pairs}
    assert set(few.alone) == set(everything.alone)  # each photograph keeps its best pair


def test_what_cannot_be_mined(engine_of: Make, folder: dict[str, LocalFeatures]) -> None:
    engine = engine_of(folder)
    for names in ([], ["x1"], ["x1", "x1"]):
        with raises(DataError):
            mine_pairs(engine, names)
    with raises(UnknownIdError):
        mine_pairs(engine, ["x1", "nobody"])
    for options in ({"per_photo": 0}, {"max_pairs": 0}):
        with raises(ConfigError):
            mine_pairs(engine, list(folder), **options)  # type: ignore[arg-type]


def test_photographs_without_features_have_no_pairs(engine_of: Make) -> None:
    empty = {name: random_features(np.random.default_rng(0), 0) for name in "abc"}
    found = mine_pairs(engine_of(empty), list(empty))
    assert (found.pairs, found.groups, found.proposed) == ((), (), 0)
    assert found.alone == tuple("abc")


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")).filter(lambda p: p[0] < p[1]),
        st.integers(1, 4),
    ),
    st.integers(1, 8),
)
def test_strongest_equals_its_definition(inliers: dict[tuple[str, str], int], count: int) -> None:
    """The rank of a pair is its place among the pairs of that of its photographs where it stands higher."""
    ordered = sorted(inliers, key=lambda pair: -inliers[pair])
    rank = {
        pair: min(sum(name in other for other in ordered[:number]) for name in pair)
        for number, pair in enumerate(ordered)
    }
    expected = sorted(ordered, key=lambda pair: (rank[pair], ordered.index(pair)))[:count]
    assert strongest(inliers, count) == expected
