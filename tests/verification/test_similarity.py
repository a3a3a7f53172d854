"""The similarities that an answer sums up: over the inliers, and over all mutual nearest neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.verification import verify_features
from delf_engine.verification.result import similarity_sum
from helpers import random_features

CONFIG = load_profile("default").verification
EXPONENTS = st.one_of(st.sampled_from([1.0, 3.0, 1e-300, 1e300]), st.floats(0.1, 50))


def oracle(a: npt.NDArray[Any], b: npt.NDArray[Any], exponent: float) -> float:
    """The definition on a whole matrix of similarities in float64; there must be no ties."""
    similarity = a.astype(np.float64) @ b.astype(np.float64).T
    to_b, to_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    return float(
        sum(max(similarity[i, j], 0.0) ** exponent for i, j in enumerate(to_b.tolist()) if int(to_a[j]) == i)
    )


def pair(seed: int, n: int, m: int, shared: int) -> tuple[LocalFeatures, LocalFeatures]:
    """Two images; the first `shared` features of the one are seen again, moved and a little changed."""
    rng = np.random.default_rng(seed)
    a, b = random_features(rng, n, dim=6), random_features(rng, m, dim=6)
    k = min(n, m, shared)
    keypoints, descriptors = b.keypoints.copy(), b.descriptors.copy()
    keypoints[:k] = a.keypoints[:k] + np.float32(4)
    descriptors[:k] = a.descriptors[:k] + rng.normal(0, 0.02, (k, 6))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return a, LocalFeatures(keypoints, b.scales, b.scores, descriptors, b.image_size)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    shared=st.integers(0, 40),
    exponent=EXPONENTS,
    options=st.fixed_dictionaries(
        {
            "mutual": st.booleans(),
            "max_distance": st.sampled_from([None, 0.01, 0.8]),
            "ratio": st.sampled_from([None, 0.9]),
        }
    ),
)
def test_equals_the_definition_whatever_the_options_of_matching(
    seed: int, n: int, m: int, shared: int, exponent: float, options: dict[str, Any]
) -> None:
    a, b = pair(seed, n, m, shared)
    found = verify_features(a, b, config=CONFIG.model_copy(update=options), exponent=exponent)
    # Descriptors are normalised again and similarities are float32: a huge exponent makes much of either.
    assert found.exponent == exponent
    if exponent < 100:
        assert found.similarity == pytest.approx(
            oracle(a.descriptors, b.descriptors, exponent), rel=1e-4, abs=1e-4
        )
        kept = (a.descriptors[found.matches[:, 0]] * b.descriptors[found.matches[:, 1]]).sum(axis=1)
        expected = float((np.clip(kept.astype(np.float64), 0, 1) ** exponent).sum())
        assert found.inlier_similarity == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert 0 <= found.inlier_similarity <= found.inliers
    assert 0 <= found.similarity <= min(n, m)
    if options["mutual"]:  # the inliers are some of the mutual nearest neighbours
        assert found.inlier_similarity <= found.similarity
    assert verify_features(b, a, exponent=exponent).similarity == found.similarity


def test_without_enough_matches_for_a_model_the_similarity_counts() -> None:
    a, b = pair(0, 3, 3, 3)
    found = verify_features(a, b)
    assert (found.inliers, found.transform, found.inlier_similarity) == (0, None, 0.0)
    assert found.similarity == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 9), (9, 0)])
def test_without_features_it_is_zero(n: int, m: int, rng: np.random.Generator) -> None:
    found = verify_features(random_features(rng, n), random_features(rng, m))
    assert (found.similarity, found.inlier_similarity) == (0.0, 0.0)


@given(
    values=st.lists(st.floats(-1.0625, 1.0625, width=32), max_size=50),
    exponent=EXPONENTS,
    seed=st.integers(0, 100),
)
def test_sum_is_bounded_monotone_and_has_no_order(values: list[float], exponent: float, seed: int) -> None:
    total = similarity_sum(values, exponent)
    plain = [min(max(np.float64(np.float32(v)), 0.0), 1.0) ** exponent for v in values]
    assert total == pytest.approx(float(np.sum(plain)), rel=1e-12)
    assert total == similarity_sum(np.random.default_rng(seed).permutation(np.array(values, np.float32)), exponent)
    assert 0 <= total <= sum(v > 0 for v in values)
    assert similarity_sum(values[1:], exponent) <= total


def test_extreme_exponents_keep_their_meaning() -> None:
    similarities = [1.0, 0.999, 0.5, 0.0, -0.5]
    assert similarity_sum(similarities, 1e300) == 1  # the exact copies
    assert similarity_sum(similarities, 1e-300) == 3  # all that are similar at all
    assert similarity_sum([], 3.0) == 0


@pytest.mark.parametrize("exponent", [0.0, -1.0, math.nan, math.inf])
def test_exponents_out_of_range(exponent: float, rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match="exponent"):
        verify_features(random_features(rng, 3), random_features(rng, 3), exponent=exponent)


def test_none_takes_the_exponent_of_the_default_profile(rng: np.random.Generator) -> None:
    a = random_features(rng, 5)
    assert verify_features(a, a).exponent == load_profile("default").ranking.exponent
