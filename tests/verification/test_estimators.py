"""Every estimator of every model: truths among outliers, defined answers to bad input, the same bits."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.verification.fits import (
    EstimatorName,
    EstimatorOptions,
    Fit,
    MatchedPoints,
    ModelName,
    fit_of,
    fundamental_of_plane,
)
from delf_engine.verification.geometry import fundamental_residuals, planar_residuals, plausible
from delf_engine.verification.libraries import degensac_transform
from delf_engine.verification.models import ESTIMATORS, MINIMUM_MATCHES, estimate, known
from helpers import raises

Float64 = npt.NDArray[np.float64]

ALL = list(ESTIMATORS)
SIZE = [1024.0, 768.0]
TRUTHS = {
    "affine": np.array([[0.9, 0.08, 30.0], [-0.1, 1.05, -12.0], [0.0, 0.0, 1.0]]),
    "homography": np.array([[0.9, 0.1, 20.0], [-0.05, 1.05, 8.0], [2e-4, -1e-4, 1.0]]),
}


def fit(model: str, estimator: str, a: Float64, b: Float64, **options: Any) -> Fit | None:
    values = {"threshold": 4.0, "max_iterations": 2000, "confidence": 0.999, "seed": 0, **options}
    return estimate(model, a, b, estimator=estimator, **values)  # type: ignore[arg-type]


def apply(H: Float64, points: Float64) -> Float64:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def two_cameras(rng: np.random.Generator, a: Float64) -> tuple[Float64, Float64]:
    """What a camera that has moved and turned sees of points at many depths, and the fundamental matrix."""
    K = np.array([[900.0, 0, 512], [0, 900, 384], [0, 0, 1]])
    turn, t = 0.1, np.array([1.0, 0.1, 0.2])
    R = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    seen = (np.c_[a, np.ones(len(a))] @ np.linalg.inv(K).T * rng.uniform(4, 12, (len(a), 1))) @ R.T + t
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    return apply(K, seen[:, :2] / seen[:, 2:]), np.linalg.inv(K).T @ cross @ R @ np.linalg.inv(K)


def scene(seed: int, model: str, *, n: int = 160, inliers: int = 80) -> tuple[Float64, Float64, Float64]:
    """Matches of two views, the first `inliers` of them right to about half a pixel, and the true transform."""
    rng = np.random.default_rng(seed)
    a: Float64 = rng.uniform(0, SIZE, (n, 2))
    b, truth = two_cameras(rng, a) if model == "fundamental" else (apply(TRUTHS[model], a), TRUTHS[model])
    b[:inliers] += rng.normal(0, 0.5, (inliers, 2))
    b[inliers:] = rng.uniform(0, SIZE, (n - inliers, 2))
    return a, b, truth


def residuals(model: str, transform: Float64, a: Float64, b: Float64) -> Float64:
    return (fundamental_residuals if model == "fundamental" else planar_residuals)(transform, a, b)


def bits(found: Fit | None) -> bytes:
    return b"" if found is None else found.transform.tobytes() + found.inliers.tobytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_recovers_the_truth_among_as_many_outliers(model: str, estimator: str, seed: int) -> None:
    a, b, truth = scene(seed, model)
    found = fit(model, estimator, a, b, seed=seed)
    assert found is not None
    assert found.inliers[:80].sum() >= 78
    assert found.inliers[80:].sum() <= (15 if model == "fundamental" else 3)  # a line takes in more than a point
    if model == "fundamental":
        clean, image = scene(seed + 100, model, inliers=160)[:2]  # the same cameras, other points
        assert np.median(fundamental_residuals(found.transform, clean, image)) < 2
    else:
        corners = np.array([[0.0, 0], [1023, 0], [0, 767], [1023, 767]])
        error = np.linalg.norm(apply(found.transform, corners) - apply(truth, corners), axis=1)
        assert error.mean() < 4  # from A to B, and not the other way round


@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_inliers_are_exactly_those_within_the_stated_residual(model: str, estimator: str) -> None:
    a, b, _ = scene(1, model)
    found = fit(model, estimator, a, b)
    assert found is not None
    # Those of affine maps are computed by a formula of their own: equal but for the last bit.
    np.testing.assert_allclose(found.residuals, residuals(model, found.transform, a, b), rtol=1e-12, atol=1e-12)
    near = np.ones(len(a), bool) if model == "fundamental" else plausible(found.transform, a)
    np.testing.assert_array_equal(found.inliers, (found.residuals <= 4.0) & near)


@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_identical_images_agree_everywhere(model: str, estimator: str, rng: np.random.Generator) -> None:
    a = rng.uniform(0, SIZE, (50, 2))
    found = fit(model, estimator, a, a.copy())
    assert found is not None
    assert found.inliers.all()
    if model != "fundamental":
        single = 1e-6 if estimator in ("ransac", "exhaustive") else 1e-2  # OpenCV solves in single precision
        np.testing.assert_allclose(found.transform / found.transform[2, 2], np.eye(3), atol=single)


@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_disjoint_images_agree_on_little(model: str, estimator: str) -> None:
    for seed in range(5):
        a, b = np.random.default_rng(seed).uniform(0, SIZE, (2, 80, 2))
        found = fit(model, estimator, a, b, seed=seed)
        assert found is None or found.inliers.sum() < (25 if model == "fundamental" else 12)


@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_too_few_or_degenerate_matches_are_a_defined_failure(
    model: str, estimator: str, rng: np.random.Generator
) -> None:
    minimum = MINIMUM_MATCHES[model]  # type: ignore[index]
    a = rng.uniform(0, SIZE, (60, 2))
    for n in range(minimum):
        assert fit(model, estimator, a[:n], a[:n]) is None
        assert fit(model, estimator, a[np.arange(60) % max(n, 1)], a[np.arange(60) % max(n, 1)]) is None
    line, spot = a[:, :1] * [1.0, 0.5] + 3, np.full((60, 2), 50.0)
    for one, other in ((line, a), (a, line), (line, line), (spot, a), (a, spot), (spot, spot)):
        assert fit(model, estimator, one, other) is None


@pytest.mark.parametrize(("model", "estimator"), [pair for pair in ALL if pair[0] != "fundamental"])
def test_what_no_camera_does_agrees_on_little(model: str, estimator: str, rng: np.random.Generator) -> None:
    a = rng.uniform(0, SIZE, (60, 2))
    squeezed, sheared = a * [3.0, 0.3], a @ np.array([[1.0, 0], [4, 1]])
    for b in (SIZE[:1] + a * [-1, 1], a * 0.01, a * 100, squeezed, sheared):
        found = fit(model, estimator, a, b, threshold=1.0)
        assert found is None or found.inliers.sum() < 12


def points(kind: str, rng: np.random.Generator, n: int) -> Float64:
    spread: Float64 = rng.uniform(0, 500, (n, 2))
    return {
        "free": spread,
        "spot": np.full((n, 2), 50.0),
        "line": rng.uniform(0, 500, (n, 1)) * [1.0, 0.5] + [3.0, 4.0],
        "few": spread[np.arange(n) % 3],
        "grid": np.round(spread / 100) * 100,
        "negative": -spread,
        "far": spread + 1e7,
        "huge": spread * 1e20,
        "greatest": spread * 6e35,
        "tiny": spread * 1e-30,
    }[kind]


KINDS = st.sampled_from(["free", "spot", "line", "few", "grid", "negative", "far", "huge", "greatest", "tiny"])


@pytest.mark.parametrize(("model", "estimator"), ALL)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 30),
    kinds=st.tuples(KINDS, KINDS),
    same=st.booleans(),
    threshold=st.sampled_from([1e-9, 4.0, 1e9]),
)
def test_whatever_comes_in_a_fit_is_sound_or_none(
    model: str, estimator: str, seed: int, n: int, kinds: tuple[str, str], same: bool, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    a = points(kinds[0], rng, n)
    b = a.copy() if same else points(kinds[1], rng, n)
    found = fit(model, estimator, a, b, threshold=threshold, max_iterations=200)
    if found is None:
        return
    assert np.isfinite(found.transform).all()
    assert (found.inliers.dtype, found.inliers.shape) == (bool, (n,))
    assert (found.residuals[found.inliers] <= threshold).all()
    assert len(np.unique(np.hstack([a, b])[found.inliers], axis=0)) >= MINIMUM_MATCHES[model]  # type: ignore[index]


def solve(task: tuple[str, str, int]) -> bytes:
    model, estimator, seed = task
    a, b, _ = scene(seed, model, inliers=40)
    rng = np.random.default_rng(seed)
    found = fit(
        model, estimator, a, b, seed=seed, scales=(rng.uniform(1, 2, 160), rng.uniform(1, 2, 160)),
        similarities=rng.uniform(0, 1, 160),
    )  # fmt: skip
    return bits(found)


@pytest.mark.parametrize("model", get_args(ModelName))
def test_same_seed_same_bits_in_threads(model: str) -> None:
    tasks = [(model, estimator, seed) for estimator in known(model) for seed in range(4)]
    expected = [solve(task) for task in tasks]
    assert len(set(expected)) > len(tasks) / 2
    assert [solve(task) for task in reversed(tasks)] == expected[::-1]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(solve, tasks)) == expected


def test_same_seed_same_bits_in_processes() -> None:
    tasks = [(model, estimator, seed) for model, estimator in ALL for seed in range(2)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        assert list(processes.map(solve, tasks)) == [solve(task) for task in tasks]


@pytest.mark.parametrize("model", get_args(ModelName))
def test_the_seed_decides(model: str) -> None:
    a, b, _ = scene(3, model, inliers=20 if model == "affine" else 70)  # ours refines easy ones to one optimum
    found = {bits(fit(model, "ransac", a, b, seed=seed, max_iterations=20)) for seed in range(6)}
    assert len(found) > 1
    for seed in (-1, 2**31):
        with pytest.raises(ConfigError, match=str(seed)):
            fit(model, "ransac", a, b, seed=seed)


def test_an_estimator_that_returns_nan_or_raises_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    import pydegensac

    a = rng.uniform(0, 500, (30, 2))

    def singular(*args: object, **options: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    for answer in (np.full((3, 3), np.nan), np.zeros((3, 3)), np.full((3, 3), np.inf)):
        for name in ("findHomography", "findFundamentalMatrix"):
            monkeypatch.setattr(pydegensac, name, lambda *args, _answer=answer, **options: (_answer, None))
        assert fit("homography", "ransac", a, a) is None
        assert fit("fundamental", "ransac", a, a) is None
    monkeypatch.setattr(pydegensac, "findHomography", singular)
    assert fit("homography", "ransac", a, a) is None


def test_what_threads_of_ray_draw_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    import pydegensac

    disturbed, found = rng.uniform(size=(2, 3, 3))
    answers = iter([disturbed, found, found, disturbed])
    a, b, ones = *rng.uniform(0, 500, (2, 30, 2)), np.ones(30)
    points = MatchedPoints(a, b, (ones, ones), ones)
    monkeypatch.setattr(pydegensac, "findFundamentalMatrix", lambda *_, **__: (next(answers), None))
    monkeypatch.setitem(sys.modules, "ray", pydegensac)
    options = EstimatorOptions(1.0, 100, 0.99, 0)
    assert degensac_transform("fundamental", points, options) is found
    monkeypatch.delitem(sys.modules, "ray")
    assert degensac_transform("fundamental", points, options) is disturbed  # nobody else draws


def test_exhaustive_draws_nothing() -> None:
    a, b, _ = scene(0, "affine", inliers=30)
    found = {
        bits(fit("affine", "exhaustive", a, b, seed=s, max_iterations=m, confidence=c))
        for s, m, c in ((0, 1, 0.5), (7, 1000, 0.5), (2**31 - 1, 1, 0.999))
    }
    assert len(found) == 1


@pytest.mark.parametrize("model", get_args(ModelName))
def test_prosac_draws_from_the_most_similar_and_others_as_they_come(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    given: list[Float64] = []

    def spied(real: Callable[..., Any]) -> Callable[..., Any]:
        def spy(a: Float64, b: Float64, params: Any) -> Any:
            given.append(a.copy())
            assert (params.sampler == cv2.SAMPLING_PROSAC) == (method == "prosac")
            assert not params.isParallel
            return real(a, b, params)

        return spy

    for name in ("estimateAffine2D", "findHomography", "findFundamentalMat"):
        monkeypatch.setattr(cv2, name, spied(getattr(cv2, name)))
    a, b, _ = scene(0, model)
    similarities = np.round(np.random.default_rng(0).uniform(0, 1, 160), 1)  # ties
    order = sorted(range(160), key=lambda i: (-similarities[i], i))
    for method in ("prosac", "magsac", "accurate"):
        given.clear()
        found = fit(model, method, a, b, similarities=similarities)
        assert np.array_equal(given[0], a[order] if method == "prosac" else a)
        assert found is not None
        assert found.inliers[:80].sum() >= 76  # in the order of the matches, whatever that of the draws


def test_the_table_names_every_estimator_and_no_other() -> None:
    assert {model for model, _ in ALL} == set(get_args(ModelName)) == set(MINIMUM_MATCHES)
    assert {estimator for _, estimator in ALL} == set(get_args(EstimatorName))
    assert known("affine") == ["ransac", "exhaustive", "magsac", "accurate", "prosac"]
    assert known("homography") == known("fundamental") == ["ransac", "magsac", "accurate", "prosac"]
    fields = VerificationConfig.model_fields
    assert get_args(fields["model"].annotation) == get_args(ModelName)
    assert get_args(fields["estimator"].annotation) == get_args(EstimatorName)


def test_unknown_names_are_refused(rng: np.random.Generator) -> None:
    a = rng.uniform(0, SIZE, (30, 2))
    with raises(ConfigError, "'similarity'"):
        fit("similarity", "ransac", a, a)
    with raises(ConfigError, "'lmeds'", "'affine'"):
        fit("affine", "lmeds", a, a)
    for model in ("homography", "fundamental"):
        with pytest.raises(ConfigError, match=rf"'exhaustive'.*'{model}'"):
            fit(model, "exhaustive", a[:0], a[:0])  # said before the matches are looked at


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e-200, 1e200, np.nan, np.inf])
@pytest.mark.parametrize(("model", "estimator"), ALL)
def test_a_threshold_that_no_residual_can_have_is_refused(
    model: str, estimator: str, threshold: float, rng: np.random.Generator
) -> None:
    a = rng.uniform(0, SIZE, (30, 2))
    with raises(ConfigError):
        fit(model, estimator, a, a, threshold=threshold)


@pytest.mark.parametrize("model", ["homography", "fundamental"])
def test_a_config_refuses_an_estimator_that_its_model_has_not(model: str) -> None:
    values = load_profile("default").verification.model_dump()
    assert VerificationConfig(**values).estimator == "exhaustive"
    with raises(ValidationError):
        VerificationConfig(**{**values, "model": model})
    for estimator in known(model):
        assert VerificationConfig(**{**values, "model": model, "estimator": estimator}).estimator == estimator
    with raises(ValidationError):
        VerificationConfig(**{**values, "estimator": "lmeds"})


def test_of_the_matrices_that_fit_a_plane_one_is_taken_and_counts_on_the_plane_only(
    rng: np.random.Generator,
) -> None:
    a = rng.uniform(0, SIZE, (60, 2))
    b = apply(TRUTHS["homography"], a)
    b[40:, 0] += 200  # off the plane, but on the epipolar lines of the matrix that is taken
    plane = fit_of("homography", TRUTHS["homography"], a, b, 4.0)
    found = fundamental_of_plane(plane, a, b, 4.0)
    assert found is not None
    assert found.inliers.tolist() == [True] * 40 + [False] * 20
    assert found.residuals.max() < 1e-6
    assert np.linalg.matrix_rank(found.transform) == 2
    assert fundamental_of_plane(None, a, b, 4.0) is None
