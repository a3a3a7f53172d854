"""`PairVerifier` and profiles: one image against many is `verify_features` pair by pair, at both precisions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.matching import match_descriptors
from delf_engine.verification import PairVerifier, Verification, verify_features
from delf_engine.verification.models import ESTIMATORS
from helpers import raises, random_features

PROFILES = ["delf", "d2r", "delg", "fast", "accurate", "default", "strong", "large", "how"]
PRECISIONS = ["float32", "uint8"]
TRUTH = np.array([[0.95, 0.05, 30.0], [-0.04, 1.02, -12.0], [0.0, 0.0, 1.0]])
DEFAULT = load_profile("default").verification


def config(**options: Any) -> VerificationConfig:
    return DEFAULT.model_copy(update=options)


def seen_again(rng: np.random.Generator, of: LocalFeatures, shared: int, *, noise: float = 0.03) -> LocalFeatures:
    """Another view: the first `shared` features moved by the truth, shuffled among new ones."""
    other = random_features(rng, len(of), of.dim, of.image_size)
    keypoints, descriptors, scales = other.keypoints.copy(), other.descriptors.copy(), other.scales.copy()
    keypoints[:shared] = of.keypoints[:shared] @ TRUTH[:2, :2].T + TRUTH[:2, 2]
    descriptors[:shared] = of.descriptors[:shared] + rng.normal(0, noise, (shared, of.dim))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    scales[:shared] = of.scales[:shared]
    order = rng.permutation(len(of))
    return LocalFeatures(keypoints[order], scales[order], other.scores, descriptors[order], of.image_size)


def many(seed: int, n: int = 150) -> tuple[LocalFeatures, list[LocalFeatures]]:
    """An image and others: views that share much or little, itself, small ones and one without features."""
    rng = np.random.default_rng(seed)
    a = random_features(rng, n)
    views = [seen_again(rng, a, shared) for shared in (0, 8, 40, 100, n)]
    return a, [*views, a, *(a.top(k) for k in range(5)), random_features(rng, 1), random_features(rng, 300)]


def assert_sound(found: Verification, a: LocalFeatures, b: LocalFeatures) -> None:
    """What holds of any answer."""
    assert (found.transform is None) == (found.inliers == 0) == (found.error_px is None)
    assert 0 <= found.effective_inliers <= found.inliers <= found.putative <= len(a)
    assert 0 <= found.inlier_ratio <= 1
    assert found.same == (found.inliers >= found.min_inliers)
    if found.inliers:
        assert (found.matches >= 0).all()
        assert (found.matches < [len(a), len(b)]).all()
        assert (np.diff(found.matches[:, 0]) > 0).all()
        assert found.error_px is not None
        assert 0 <= found.error_px <= found.residual_px
        assert found.transform is not None
        assert np.isfinite(found.transform).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("model", "estimator"), list(ESTIMATORS))
def test_one_against_many_is_pair_by_pair(model: str, estimator: str, precision: str) -> None:
    options = {"model": model, "estimator": estimator, "precision": precision, "max_iterations": 500}
    a, others = many(0)
    verifier = PairVerifier(a, config=config(**options), exponent=2.0, seed=7)
    expected = [verify_features(a, b, config=config(**options), exponent=2.0, seed=7) for b in others]
    assert [verifier(b) for b in others] == expected
    assert [verifier(b) for b in reversed(others)] == expected[::-1]  # it remembers nothing
    for found, b in zip(expected, others, strict=True):
        assert_sound(found, a, b)
        assert (found.model, found.estimator, found.exponent) == (model, estimator, 2.0)
    assert expected[3].inliers >= 95
    assert expected[5].inliers == len(a)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_verifier_serves_many_threads(precision: str) -> None:
    a, others = many(1)
    expected = [verify_features(a, b, config=config(precision=precision)).to_dict() for b in others]
    verifier = PairVerifier(a, config=config(precision=precision))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda b: verifier(b).to_dict(), others * 4)) == expected * 4


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 40), precision=st.sampled_from(PRECISIONS))
def test_any_number_of_features(seed: int, n: int, precision: str) -> None:
    rng = np.random.default_rng(seed)
    a = random_features(rng, n, dim=int(rng.integers(1, 50)))
    verifier = PairVerifier(a, config=config(precision=precision, max_distance=None), seed=seed)
    for b in (a, seen_again(rng, a, n // 2), LocalFeatures.empty((640, 480), a.dim)):
        found = verifier(b)
        assert_sound(found, a, b)
        assert found == verify_features(a, b, config=config(precision=precision, max_distance=None), seed=seed)


def test_bad_options_are_refused_at_once(rng: np.random.Generator) -> None:
    a = random_features(rng, 9)
    for exponent in (0.0, -1.0, np.nan, np.inf):
        with raises(ConfigError):
            PairVerifier(a, exponent=exponent)
    with raises(ConfigError, "1041"):
        PairVerifier(random_features(rng, 2, dim=1041), config=config(precision="uint8"))
    with raises(ConfigError):
        verify_features(a, a, config=config(residual_px=1e-24))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1e20, 3e38])
def test_scales_of_any_size_give_a_defined_answer(scale: float, rng: np.random.Generator) -> None:
    a = random_features(rng, 60, image_size=(4000, 3000))
    b = LocalFeatures(a.keypoints, np.full(60, scale), a.scores, a.descriptors, a.image_size)  # type: ignore[arg-type]
    for one, other in ((a, b), (b, a)):
        assert_sound(verify_features(one, other), one, other)
    assert verify_features(b, b).inliers == 60  # both alike: their ratio is 1


def share_of_equal_matches(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Matches that both precisions find, over those that one of them does."""
    found = [
        {tuple(pair) for pair in match_descriptors(a, b, max_distance=0.8, precision=p).pairs.tolist()}  # type: ignore[arg-type]
        for p in PRECISIONS
    ]
    return len(found[0] & found[1]) / len(found[0] | found[1])


def test_bytes_are_close_to_floats_on_photographs(data: Path) -> None:
    import delf_engine as de

    extractor = de.Extractor.from_pretrained("delf-r18", device="cpu")
    a, b = (extractor(data / "homography" / "graf" / f"graf{name}.jpg") for name in "AB")
    assert share_of_equal_matches(a.descriptors, b.descriptors) > 0.9
    floats, whole = (verify_features(a, b, config=config(precision=p)) for p in PRECISIONS)
    assert floats.same
    assert whole.same
    assert whole.inliers == pytest.approx(floats.inliers, rel=0.1)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_verifies_a_pair(name: str) -> None:
    profile = load_profile(name)
    rng = np.random.default_rng(0)
    a = random_features(rng, 200)
    right, wrong = seen_again(rng, a, 120), random_features(rng, 200)
    verifier = PairVerifier(a, config=profile.verification, exponent=profile.ranking.exponent)
    found, other = verifier(right), verifier(wrong)
    assert found.same
    assert found.inliers >= 118
    assert found.transform is not None
    corners = np.array([[0.0, 0], [639, 0], [0, 479], [639, 479]])
    mapped = np.c_[corners, np.ones(4)] @ found.transform.T
    np.testing.assert_allclose(mapped[:, :2] / mapped[:, 2:], corners @ TRUTH[:2, :2].T + TRUTH[:2, 2], atol=4)
    assert not other.same
    for n in range(4):
        few = verifier(a.top(n))
        assert (few.inliers, few.same, few.transform) == (0, False, None)
        assert few.putative <= n
        assert few.similarity == pytest.approx(n, rel=0.1)  # geometry or not
    for answer, b in ((found, right), (other, wrong)):
        assert_sound(answer, a, b)
        again = verify_features(a, b, config=profile.verification, exponent=profile.ranking.exponent)
        assert again == answer
