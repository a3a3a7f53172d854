"""`verify_features`: direction, pixel scales, decisions, and whatever comes in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import VerificationConfig, load_profile
from delf_engine.errors import ConfigError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.verification import verify_features
from delf_engine.verification.models import ESTIMATORS
from delf_engine.verification.result import similarity_sum
from helpers import random_features

MODELS = list(ESTIMATORS)
DEFAULT = load_profile("default")
EXPONENTS = st.one_of(st.sampled_from([1.0, 3.0, 1e-300, 1e300]), st.floats(0.1, 50))
PLANAR = load_profile("accurate").verification
HOMOGRAPHY = np.array([[0.9, 0.1, 20.0], [-0.05, 1.05, 8.0], [1e-4, -5e-5, 1.0]])


def config(**options: Any) -> VerificationConfig:
    return PLANAR.model_copy(update=options)


def apply(H: npt.NDArray[Any], points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def view(
    rng: np.random.Generator, of: LocalFeatures, H: npt.NDArray[Any], *, shared: int, noise: float = 0.03
) -> LocalFeatures:
    """Features of another view: the first `shared` ones seen again through `H`, shuffled among new ones."""
    other = random_features(rng, len(of), of.dim, of.image_size)
    keypoints, descriptors = other.keypoints.copy(), other.descriptors.copy()
    keypoints[:shared] = apply(H, of.keypoints[:shared])
    descriptors[:shared] = of.descriptors[:shared] + rng.normal(0, noise, (shared, of.dim))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = rng.permutation(len(of))
    return LocalFeatures(keypoints[order], other.scales, other.scores, descriptors[order], of.image_size)


@pytest.mark.parametrize("seed", range(3))
def test_transform_leads_from_a_to_b(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = random_features(rng, 300)
    b = view(rng, a, HOMOGRAPHY, shared=80)
    found = verify_features(a, b, config=config(residual_px=3.0))
    assert found.same
    assert found.inliers >= 80
    assert found.transform is not None
    np.testing.assert_allclose(
        apply(found.transform, a.keypoints[:80]), apply(HOMOGRAPHY, a.keypoints[:80]), atol=0.5
    )
    back = verify_features(b, a, config=config(residual_px=3.0))
    assert back.transform is not None
    np.testing.assert_allclose(
        apply(back.transform, apply(found.transform, a.keypoints[:80])), a.keypoints[:80], atol=0.5
    )


def test_matches_index_the_features(rng: np.random.Generator) -> None:
    a = random_features(rng, 200)
    b = view(rng, a, HOMOGRAPHY, shared=60)
    found = verify_features(a, b, config=config())
    assert found.matches.dtype == np.int32
    assert (np.diff(found.matches[:, 0]) > 0).all()
    assert found.inliers == len(found.matches) == len(found.similarities) <= found.putative
    dots = (a.descriptors[found.matches[:, 0]] * b.descriptors[found.matches[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(found.similarities, dots, atol=1e-5)
    assert not found.matches.flags.writeable


@pytest.mark.parametrize(("model", "estimator"), MODELS)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 10), (10, 0), (1, 1), (2, 50), (3, 3)])
def test_few_or_no_features_are_zero_inliers(
    model: str, estimator: str, n: int, m: int, rng: np.random.Generator
) -> None:
    found = verify_features(
        random_features(rng, n), random_features(rng, m), config=config(model=model, estimator=estimator)
    )
    assert (found.inliers, found.same, found.transform) == (0, False, None)
    assert (found.matches.shape, found.similarities.shape) == ((0, 2), (0,))
    assert json.loads(json.dumps(found.to_dict()))["transform"] is None


def test_reference_size_scales_the_residual_with_large_images() -> None:
    rng = np.random.default_rng(0)
    small = random_features(rng, 300, image_size=(1024, 768))
    moved = view(rng, small, HOMOGRAPHY, shared=100)
    jitter = moved.keypoints + rng.normal(0, 3, moved.keypoints.shape)

    def enlarged(of: LocalFeatures, keypoints: npt.NDArray[Any], by: int) -> LocalFeatures:
        size = (of.image_size[0] * by, of.image_size[1] * by)
        return LocalFeatures((keypoints + 0.5) * by - 0.5, of.scales, of.scores, of.descriptors, size)

    options = config(residual_px=8.0, reference_size=1024)
    b = enlarged(moved, jitter, 1)
    expected = verify_features(small, b, config=options)
    assert expected.inliers >= 90
    for by_a, by_b in ((4, 4), (1, 3), (5, 1)):
        found = verify_features(
            enlarged(small, small.keypoints, by_a), enlarged(moved, jitter, by_b), config=options
        )
        assert found.transform is not None
        assert expected.transform is not None
        assert found.matches.tolist() == expected.matches.tolist()  # one scene, whatever the pixels
        mapped = apply(found.transform, (small.keypoints[:50] + 0.5) * by_a - 0.5)
        wanted = (apply(expected.transform, small.keypoints[:50]) + 0.5) * by_b - 0.5
        np.testing.assert_allclose(mapped, wanted, rtol=1e-3, atol=0.1)
    # Without it the residual is one of original pixels, and four times too strict.
    strict = verify_features(
        enlarged(small, small.keypoints, 4),
        enlarged(moved, jitter, 4),
        config=config(residual_px=8.0, reference_size=None),
    )
    assert strict.inliers < expected.inliers


def test_fundamental_matrix_is_one_of_original_pixels(rng: np.random.Generator) -> None:
    a = random_features(rng, 200, image_size=(3000, 2000))
    b = LocalFeatures(
        a.keypoints + [[400.0, 0.0]] * rng.uniform(0.2, 1, (200, 1)),
        a.scales,
        a.scores,
        a.descriptors,
        (4000, 2000),
    )
    F = verify_features(a, b, config=config(model="fundamental", residual_px=2.0)).transform
    assert F is not None
    assert np.linalg.norm(F) == pytest.approx(1)
    lines = np.c_[a.keypoints, np.ones(200)] @ F.T
    distance = np.abs((lines * np.c_[b.keypoints, np.ones(200)]).sum(axis=1)) / np.hypot(lines[:, 0], lines[:, 1])
    assert np.median(distance) < 4


@given(
    seed=st.integers(0, 1000), shift=st.sampled_from([0.0, 1e4, 1e20]), scale=st.sampled_from([1e-20, 1.0, 1e30])
)
def test_keypoints_anywhere_give_a_defined_answer(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    base = random_features(rng, 30, dim=4)
    a = LocalFeatures(
        base.keypoints * np.float32(scale) + np.float32(shift), base.scales, base.scores, base.descriptors, (9, 9)
    )
    for model, estimator in MODELS:
        found = verify_features(a, base, config=config(model=model, estimator=estimator, max_iterations=100))
        assert (found.transform is None) == (found.inliers == 0)


def test_the_published_profile_takes_many_to_one(rng: np.random.Generator) -> None:
    a = random_features(rng, 50)
    doubled = LocalFeatures(
        *(np.repeat(v, 2, axis=0) for v in (a.keypoints, a.scales, a.scores, a.descriptors)), a.image_size
    )
    published = load_profile("delf").verification
    assert (published.model, published.mutual) == ("affine", False)
    assert verify_features(doubled, a, config=published).inliers == 100
    assert verify_features(doubled, a).inliers == 50


def test_none_takes_the_exponent_of_the_default_profile(rng: np.random.Generator) -> None:
    a = random_features(rng, 5)
    assert verify_features(a, a).exponent == DEFAULT.ranking.exponent


def test_features_of_different_models_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(MismatchError):
        verify_features(random_features(rng, 5, dim=40), random_features(rng, 5, dim=128))
    with pytest.raises(MismatchError):
        verify_features(random_features(rng, 0, dim=40), random_features(rng, 0, dim=128))
    with pytest.raises(ConfigError):
        verify_features(random_features(rng, 5), random_features(rng, 5), seed=-1)


def test_real_pair_of_photographs(data: Any) -> None:
    """SIFT features of the Oxford graffiti pair: the true homography comes back."""
    import cv2

    folder = data / "homography" / "graf"
    features = []
    for name in ("grafA", "grafB"):
        (path,) = (p for p in folder.iterdir() if p.stem == name)
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        points, descriptors = cv2.SIFT_create(2000).detectAndCompute(image, None)
        order = np.argsort([-p.response for p in points], kind="stable")
        descriptors = np.sqrt(descriptors[order] / descriptors[order].sum(axis=1, keepdims=True))
        values = np.array([(*points[i].pt, points[i].size, points[i].response) for i in order])
        size = (image.shape[1], image.shape[0])
        features.append(LocalFeatures(values[:, :2], values[:, 2], values[:, 3], descriptors, size))
    truth = np.loadtxt(folder / "H_A_B.txt")
    found = verify_features(*features, config=config(residual_px=3.0, ratio=0.9))
    assert found.same
    assert found.transform is not None
    width, height = features[0].image_size
    corners = np.array([[0.0, 0], [width, 0], [0, height], [width, height]])
    error = np.linalg.norm(apply(found.transform, corners) - apply(truth, corners), axis=1)
    assert error.mean() < 0.03 * width


# ------------------------------------------------------------------------------------- the sum of similarities


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
    found = verify_features(a, b, config=DEFAULT.verification.model_copy(update=options), exponent=exponent)
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
