"""Query expansion: a plain oracle, places and scales, thinning, order, and the images that may not be used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import RerankingConfig, load_profile, parse_config
from delf_engine.errors import ConfigError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import (
    ExpansionConfig,
    RankedCandidate,
    RerankOptions,
    expand_query,
    expansion,
    rerank_shortlist,
)
from delf_engine.verification import verify_features
from helpers import raises, random_features
from reranking.test_graph import window
from verification.answers import answer

VERIFICATION = load_profile("default").verification
SIZE = (640, 480)


def hit(
    image_id: str,
    transform: npt.ArrayLike | None,
    rows: Sequence[int] = range(40),
    *,
    model: str = "homography",
    rank: int = 1,
    residual_px: float = 4.0,
    reference_size: int | None = None,
    min_inliers: int = 35,
) -> RankedCandidate:
    """A candidate whose `rows` agree on a transform from the query."""
    verification = answer(
        len(rows),
        1.0,
        model=model,
        transform=transform,
        matches=np.stack([np.asarray(rows, np.int32)] * 2, axis=1),
        residual_px=residual_px,
        reference_size=reference_size,
        min_inliers=min_inliers,
    )
    return RankedCandidate(image_id, rank, rank, None, verification, float(len(rows)))


def some_homography(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A transform that photographs may have: some turn, zoom and perspective around the middle."""
    angle, zoom = rng.uniform(-0.5, 0.5), rng.uniform(0.5, 2)
    H = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    H[:2] *= zoom
    H[:2, 2] = rng.uniform(-100, 100, 2)
    H[2, :2] = rng.uniform(-4e-4, 4e-4, 2)
    return H


def by_hand(
    query: LocalFeatures,
    hits: Sequence[RankedCandidate],
    images: dict[str, LocalFeatures],
    config: ExpansionConfig,
) -> list[tuple[float, float, float, float]]:
    """What `expand_query` says it does, one feature at a time: score, x, y and scale of each, best first."""

    def unit(v: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return np.asarray(v / np.linalg.norm(v.astype(float)), np.float64)

    kept = [
        (tuple(p), unit(d)) for p, d in zip(query.keypoints.astype(float).tolist(), query.descriptors, strict=True)
    ]
    added = []
    enough = [h for h in hits if h.verification and h.verification.inliers >= 35]
    enough.sort(key=lambda h: (-(h.inliers or 0), h.rank, h.id))
    for h in enough[: config.count]:
        v, image = h.verification, images[h.id]
        assert v is not None
        G = np.linalg.inv(v.transform)  # type: ignore[arg-type]
        radius = v.residual_px * max(1.0, max(query.image_size) / (v.reference_size or math.inf))
        for k in range(len(image)):

            def to_query(x: float, y: float) -> tuple[float, float, float]:
                X = G @ [x, y, 1]  # noqa: B023
                return X[0] / X[2], X[1] / X[2], X[2]

            x, y = image.keypoints[k].astype(float).tolist()
            px, py, depth = to_query(x, y)
            # The Jacobian by central differences.
            step = 1e-3
            right, left = to_query(x + step, y), to_query(x - step, y)
            down, up = to_query(x, y + step), to_query(x, y - step)
            J = np.array([[right[i] - left[i], down[i] - up[i]] for i in range(2)]) / (2 * step)
            stretch = np.linalg.svd(J, compute_uv=False)
            area = np.linalg.det(J)
            if depth <= 0 or not 1e-2 < area < 1e2 or stretch[0] > 8 * stretch[1]:
                continue
            if not (-0.5 <= px <= query.image_size[0] - 0.5 and -0.5 <= py <= query.image_size[1] - 0.5):
                continue
            d = unit(image.descriptors[k])
            if any(math.dist(p, (px, py)) <= radius and e @ d >= config.similarity for p, e in kept):
                continue
            kept.append(((px, py), d))
            added.append((float(image.scores[k]), px, py, float(image.scales[k]) * math.sqrt(area)))
    own = [
        (float(s), float(p[0]), float(p[1]), float(z))
        for s, p, z in zip(query.scores, query.keypoints, query.scales, strict=True)
    ][: config.max_features]
    added = sorted(added, key=lambda f: -f[0])[: config.max_features - len(own)]
    return sorted(own + added, key=lambda f: -f[0])


@pytest.mark.parametrize("seed", range(12))
def test_expansion_is_that_of_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = random_features(rng, 40, dim=3)  # of three dimensions, so that many are alike
    images = {f"i{k}": random_features(rng, 50, dim=3) for k in range(4)}
    hits = [
        hit(
            name,
            some_homography(rng),
            range(int(rng.integers(30, 45))),
            rank=k,
            residual_px=30.0,
            reference_size=[None, 320][k % 2],
        )
        for k, name in enumerate(images, start=1)
    ]
    config = ExpansionConfig(count=3, max_features=int(rng.choice([30, 60, 2000])), similarity=0.7)
    found = expand_query(query, hits, images, config=config)
    expected = by_hand(query, hits, images, config)
    assert len(found) == len(expected)
    got = np.column_stack([found.scores, found.keypoints, found.scales])
    np.testing.assert_allclose(got, np.array(expected), rtol=1e-4, atol=1e-2)
    shuffled = [hits[k] for k in rng.permutation(len(hits))]
    assert expand_query(query, shuffled, images.get, config=config) == found


@given(st.integers(0, 2**32 - 1))
def test_added_features_lie_where_the_transform_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, image = LocalFeatures.empty(SIZE), random_features(rng, 60)
    H = some_homography(rng)
    found = expand_query(query, [hit("a", H)], {"a": image}, config=ExpansionConfig(similarity=1.0))
    row_of = {d.tobytes(): k for k, d in enumerate(image.descriptors)}
    rows = [row_of[d.tobytes()] for d in found.descriptors]
    back = found.keypoints.astype(float) @ H[:, :2].T + H[:, 2]
    np.testing.assert_allclose(back[:, :2] / back[:, 2:], image.keypoints[rows], atol=0.05)
    assert found.image_size == SIZE
    assert (found.keypoints >= -0.5).all()
    assert (found.keypoints <= np.array(SIZE) - 0.5).all()
    assert expand_query(query, [hit("a", -H)], {"a": image}, config=ExpansionConfig(similarity=1.0)) == found
    boxed = expand_query(
        query, [hit("a", H)], {"a": image}, config=ExpansionConfig(similarity=1.0), box=(0, 0, 300, 200)
    )
    inside = (found.keypoints >= 0).all(axis=1) & (found.keypoints <= [300, 200]).all(axis=1)
    np.testing.assert_array_equal(boxed.descriptors, found.descriptors[inside])


def test_the_query_itself_adds_nothing(rng: np.random.Generator) -> None:
    query = random_features(rng, 60)
    assert expand_query(query, [hit("a", np.eye(3))], {"a": query}) == query
    # Further than the residual it is another feature; and so it is with another descriptor.
    by = [[1, 0, 5], [0, 1, 0], [0, 0, 1]]
    assert len(expand_query(query, [hit("a", by, residual_px=4.0)], {"a": query})) > 100
    assert expand_query(query, [hit("a", by, residual_px=5.0)], {"a": query}) == query


def test_duplicates_within_one_image_and_between_images(rng: np.random.Generator) -> None:
    image = random_features(rng, 40)
    twice = LocalFeatures(
        *(np.repeat(getattr(image, name), 2, axis=0) for name in ("keypoints", "scales", "scores", "descriptors")),
        SIZE,
    )
    query = LocalFeatures.empty(SIZE)
    hits = [hit(name, np.eye(3), rank=k) for k, name in enumerate("ab", start=1)]
    assert expand_query(query, hits, {"a": twice, "b": image}) == image


def test_parts_of_the_work_make_no_difference(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    query, images = random_features(rng, 40, dim=3), {name: random_features(rng, 60, dim=3) for name in "ab"}
    hits = [hit(name, np.eye(3), residual_px=60.0) for name in "ab"]
    whole = expand_query(query, hits, images)
    assert 40 < len(whole) < 160
    monkeypatch.setattr(expansion, "_PAIRS_AT_ONCE", 3)
    assert expand_query(query, hits, images) == whole


def test_images_of_few_inliers_are_left_out(rng: np.random.Generator) -> None:
    query, image = random_features(rng, 40), random_features(rng, 40)
    images = {"a": image}
    few = hit("a", np.eye(3), range(34))
    assert expand_query(query, [few], images) == query
    assert len(expand_query(query, [hit("a", np.eye(3), range(34), min_inliers=34)], images)) == 80
    not_verified = RankedCandidate("gone", 1, 1, None, None, None)
    assert expand_query(query, [not_verified, hit("b", None, [])], {}) == query
    assert expand_query(query, [], {}) == query


def test_a_transform_that_tells_nothing_adds_nothing(rng: np.random.Generator) -> None:
    query, image = random_features(rng, 40), random_features(rng, 40)
    singular = [[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1]]
    mirrored = [[-1.0, 0, 640], [0, 1, 0], [0, 0, 1]]
    collapsed = [[1e-3, 0, 320], [0, 1e-3, 240], [0, 0, 1]]
    for transform in (singular, mirrored, collapsed):
        assert expand_query(query, [hit("a", transform)], {"a": image}) == query
    empty = LocalFeatures.empty(SIZE)
    assert expand_query(query, [hit("a", np.eye(3), [], min_inliers=0)], {"a": empty}) == query


def test_the_query_keeps_its_own_features_first(rng: np.random.Generator) -> None:
    query, image = random_features(rng, 40), random_features(rng, 40)
    hits, images = [hit("a", np.eye(3))], {"a": image}
    found = expand_query(query, hits, images, config=ExpansionConfig(max_features=50))
    assert len(found) == 50
    rows = {d.tobytes() for d in found.descriptors}
    assert rows >= {d.tobytes() for d in query.descriptors}
    assert rows >= {d.tobytes() for d in image.descriptors[:10]}
    assert expand_query(query, hits, images, config=ExpansionConfig(max_features=30)) == query.top(30)


def test_what_cannot_be_expanded_is_refused(rng: np.random.Generator) -> None:
    query, image = random_features(rng, 40), random_features(rng, 40)
    with raises(ConfigError, "'a'", "fundamental"):
        expand_query(query, [hit("a", np.eye(3), model="fundamental")], {"a": image})
    with raises(UnknownIdError, "'a'"):
        expand_query(query, [hit("a", np.eye(3))], {})
    with raises(MismatchError, "'a'", "7-D"):
        expand_query(query, [hit("a", np.eye(3))], {"a": random_features(rng, 40, dim=7)})
    with raises(MismatchError, "'a'", "39"):
        expand_query(query, [hit("a", np.eye(3))], {"a": image.top(39)})
    bad: list[Any] = [(0, 0, 1), "box", (5, 0, 5, 9), (0, 0, math.nan, 1), 7]
    for box in bad:
        with raises(ConfigError):
            expand_query(query, [], {}, box=box)
    for key, value in (("count", 0), ("max_features", 0), ("similarity", 1.5)):
        with pytest.raises(ConfigError, match=key):
            parse_config(ExpansionConfig, {key: value}, where="here")


def test_an_expanded_query_sees_further(rng: np.random.Generator) -> None:
    """Three photographs of one wall: the second has features of it that the first lacks and the third has."""
    wall = random_features(rng, 200)

    query, near, far = (window(rng, wall, *part) for part in ((0, 80), (20, 160), (70, 200)))
    images = {"near": near, "far": far}
    options = RerankOptions(RerankingConfig(top_n=9), VERIFICATION)
    hits = rerank_shortlist(query, list(images), images, options)
    assert [(h.id, h.verification is not None and h.verification.same) for h in hits] == [
        ("near", True),
        ("far", False),
    ]
    expanded = expand_query(query, hits, images)
    assert verify_features(expanded, images["far"], config=VERIFICATION).inliers >= 70
    assert expand_query(query, hits, images) == expanded
