"""The exhaustive affine verifier: its oracle, truths among outliers, symmetries, and whatever comes in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.matching import match_descriptors
from delf_engine.verification.affine import exhaustive_affine
from verification import exhaustive_oracle as oracle

Float64 = npt.NDArray[np.float64]

SIZE = np.array([1000.0, 750.0])
THRESHOLD = 6.0
SEEDS = st.integers(0, 10**6)
ROOT = np.sqrt(2.0)


class Scene(NamedTuple):
    """Matches, the first `inliers` of them right to about half a pixel, all others by more than 60 pixels."""

    a: Float64
    b: Float64
    scales_a: Float64
    scales_b: Float64
    inliers: int
    truth: Float64

    def taken(self, rows: npt.NDArray[np.intp]) -> Scene:
        return self._replace(**{name: getattr(self, name)[rows] for name in ("a", "b", "scales_a", "scales_b")})


def moved(points: Float64, M: Float64) -> Float64:
    return np.asarray(points @ M[:2, :2].T + M[:2, 2])


def random_map(rng: np.random.Generator, *, turn: float = 0.1, stretch: float = 1.15) -> Float64:
    """A similarity, or with `stretch` an affine map, as between two photographs that stand upright."""
    zoom, squeeze = 2.0 ** rng.uniform(-1, 1), stretch ** rng.uniform(-0.5, 0.5)
    first, second = rng.uniform(-turn, turn, 2)
    turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in (first + second, -second)]
    M = np.eye(3)
    M[:2, :2] = turns[0] @ np.diag([zoom * squeeze, zoom / squeeze]) @ turns[1]
    M[:2, 2] = rng.uniform(-200, 200, 2)
    return M


def scene(
    seed: int, *, inliers: int = 60, outliers: int = 60, noise: float = 0.5, truth: Float64 | None = None,
    stretch: float = 1.15, height: float = 1.0,
) -> Scene:  # fmt: skip
    rng = np.random.default_rng(seed)
    M = random_map(rng, stretch=stretch) if truth is None else truth
    n = inliers + outliers
    a = rng.uniform(0, SIZE * [1, height], (n, 2))
    right = moved(a, M)
    b = right + rng.normal(0, noise, (n, 2))
    for i in range(inliers, n):
        while np.hypot(*(b[i] - right[i])) < 60 * (1 + np.sqrt(np.linalg.det(M[:2, :2]))):
            b[i] = moved(rng.uniform(0, SIZE, 2), M)
    scales_a = rng.choice([1.0, ROOT, 2.0, 2 * ROOT], n)
    scales_b = scales_a * np.sqrt(np.linalg.det(M[:2, :2])) * np.exp(rng.normal(0, 0.1, n))
    scales_b[inliers:] = rng.choice([1.0, ROOT, 2.0, 2 * ROOT], outliers)
    return Scene(a, b, scales_a, scales_b, inliers, M)


def run(s: Scene, threshold: float = THRESHOLD) -> Float64 | None:
    return exhaustive_affine(s.a, s.b, s.scales_a, s.scales_b, threshold=threshold)


def found(s: Scene, threshold: float = THRESHOLD) -> Float64:
    M = run(s, threshold)
    assert M is not None
    assert M[2].tolist() == [0, 0, 1]
    return M


def explained(M: Float64 | None, s: Scene, threshold: float = THRESHOLD) -> npt.NDArray[np.bool_]:
    return np.zeros(len(s.a), bool) if M is None else oracle.residuals(M, s.a, s.b) <= threshold


def corners_apart(M: Float64, N: Float64) -> float:
    """How far two maps take the corners of image A apart, at most."""
    corners = np.array([[0.0, 0], [1000, 0], [0, 750], [1000, 750]])
    return float(np.hypot(*(moved(corners, M) - moved(corners, N)).T).max())


@given(
    seed=SEEDS,
    inliers=st.integers(0, 60),
    outliers=st.integers(0, 60),
    noise=st.sampled_from([0.0, 0.5, 4.0, 20.0]),
    threshold=st.sampled_from([1.0, 6.0, 24.0, 300.0]),
    height=st.sampled_from([1.0, 0.05, 0.005]),  # a strip that fixes an affine map, and one that does not
)
def test_explains_as_much_as_the_oracle(
    seed: int, inliers: int, outliers: int, noise: float, threshold: float, height: float
) -> None:
    s = scene(seed, inliers=inliers, outliers=outliers, noise=noise, height=height)
    mine, plain = run(s, threshold), oracle.search(s.a, s.b, s.scales_a, s.scales_b, threshold)
    assert (mine is None) == (plain is None)
    expected = oracle.score(plain, s.a, s.b, threshold)
    assert oracle.score(mine, s.a, s.b, threshold) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(seed=SEEDS, n=st.integers(2, 40), threshold=st.sampled_from([6.0, 24.0]))
def test_equals_the_oracle_where_nothing_fits(seed: int, n: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, SIZE, (2, n, 2))
    scales = 2.0 ** rng.uniform(-2, 2, (2, n))
    mine = exhaustive_affine(a, b, *scales, threshold=threshold)
    plain = oracle.search(a, b, *scales, threshold)
    assert (mine is None) == (plain is None)
    assert oracle.score(mine, a, b, threshold) == pytest.approx(oracle.score(plain, a, b, threshold), abs=1e-4)


@given(seed=SEEDS, inliers=st.integers(8, 100), outliers=st.integers(0, 100))
def test_clear_cut_matches_give_the_least_squares_map_of_the_true_inliers(
    seed: int, inliers: int, outliers: int
) -> None:
    s = scene(seed, inliers=inliers, outliers=min(outliers, 2 * inliers))
    M = found(s)
    expected = oracle.fit(s.a[:inliers], s.b[:inliers])
    plain = oracle.search(s.a, s.b, s.scales_a, s.scales_b, THRESHOLD)
    assert expected is not None
    assert plain is not None
    assert corners_apart(M, expected) < 1e-6
    assert corners_apart(M, plain) < 1e-6


@given(seed=SEEDS)
def test_swapped_images_give_the_inverse(seed: int) -> None:
    s = scene(seed)
    back = found(Scene(s.b, s.a, s.scales_b, s.scales_a, s.inliers, np.linalg.inv(s.truth)))
    assert corners_apart(np.linalg.inv(back), found(s)) < 0.5
    assert explained(np.linalg.inv(back), s).tolist() == explained(found(s), s).tolist()


@given(
    seed=SEEDS,
    shifts=st.tuples(*[st.integers(-5000, 5000)] * 4),
    factor=st.sampled_from([1e-6, 0.1, 1.0, 3.0, 1e6]),
)
def test_shifted_and_scaled_images_shift_and_scale_the_map(
    seed: int, shifts: tuple[int, int, int, int], factor: float
) -> None:
    s = scene(seed)
    by_a, by_b = np.diag([factor, factor, 1]), np.diag([factor, factor, 1])
    by_a[:2, 2], by_b[:2, 2] = np.multiply(shifts[:2], factor), np.multiply(shifts[2:], factor)
    M = found(s._replace(a=moved(s.a, by_a), b=moved(s.b, by_b)), THRESHOLD * factor)
    assert corners_apart(np.linalg.inv(by_b) @ M @ by_a, found(s)) < 1e-6


@given(seed=SEEDS, order=SEEDS)
def test_order_of_the_matches_does_not_matter_where_it_is_clear_cut(seed: int, order: int) -> None:
    s = scene(seed)
    rows = np.random.default_rng(order).permutation(len(s.a))
    shuffled = found(s.taken(rows))
    assert explained(shuffled, s).sum() == explained(found(s), s).sum() == s.inliers
    assert corners_apart(shuffled, found(s)) < 1e-6


@given(seed=SEEDS, same=st.floats(0.01, 100))
def test_scales_that_are_all_alike_serve_where_nothing_zooms(seed: int, same: float) -> None:
    s = scene(seed, truth=np.array([[1.02, 0.04, 30], [-0.03, 0.97, -50], [0, 0, 1]]))
    alike = np.full(len(s.a), same)
    assert explained(found(s._replace(scales_a=alike, scales_b=alike)), s)[:60].all()


@pytest.mark.parametrize("seed", range(20))
def test_scale_ratios_may_be_wrong_by_root_two(seed: int) -> None:
    s = scene(seed)
    wrong = s.scales_b * np.random.default_rng(seed).choice([1 / ROOT, ROOT], len(s.a))
    M = found(s._replace(scales_b=wrong), 24)
    assert explained(M, s, 24)[:60].sum() >= 59


@given(seed=SEEDS, copies=st.integers(2, 5))
def test_repeated_matches_change_nothing_where_it_is_clear_cut(seed: int, copies: int) -> None:
    s = scene(seed, inliers=30, outliers=20)
    again = s.taken(np.repeat(np.arange(50), copies))
    assert corners_apart(found(again), found(s)) < 1e-6


@given(seed=SEEDS)
def test_one_point_of_a_matched_with_many_of_b_does_not_distract(seed: int) -> None:
    s = scene(seed, inliers=60, outliers=40)
    s.a[60:] = s.a[60]
    s.scales_a[60:] = s.scales_a[60]
    assert explained(found(s), s)[:60].all()


@pytest.mark.parametrize("n", range(6))
def test_few_matches_are_a_similarity_through_them_or_nothing(n: int) -> None:
    s = scene(3, inliers=n, outliers=0, noise=0.0, stretch=1.0)
    M = run(s)
    assert (M is None) == (n < 2)
    if M is not None:
        assert corners_apart(M, s.truth) < 1e-6


@given(seed=SEEDS, n=st.integers(6, 60), angle=st.floats(0, np.pi))
def test_matches_on_a_line_fix_a_similarity(seed: int, n: int, angle: float) -> None:
    s = scene(seed, inliers=n, outliers=0, noise=0.0, stretch=1.0)
    along = np.linspace(0, 800, n)[:, None] * [np.cos(angle), np.sin(angle)]
    M = found(s._replace(a=along, b=moved(along, s.truth)))
    np.testing.assert_allclose(M, s.truth, atol=1e-6)


@pytest.mark.filterwarnings("error")
@given(
    seed=SEEDS,
    n=st.integers(0, 12),
    factors=st.tuples(*[st.sampled_from([0.0, 1e-40, 1e-20, 1.0, 1e10, 1e20, 1e30, 3e38])] * 2),
    scales=st.tuples(*[st.sampled_from([1e-45, 1e-20, 1.0, 1e20, 3e38])] * 2),
    threshold=st.sampled_from([1e-9, 24.0, 1e9]),
)
def test_huge_and_tiny_values_give_a_sound_map_or_none(
    seed: int, n: int, factors: tuple[float, float], scales: tuple[float, float], threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.uniform(-1, 1, (n, 2)) * factor for factor in factors)
    M = exhaustive_affine(a, b, np.full(n, scales[0]), np.full(n, scales[1]), threshold=threshold)
    if M is not None:
        assert np.isfinite(M).all()
        assert oracle.camera_could(M)


@pytest.mark.parametrize(
    ("first", "second"), [("graf/grafA", "graf/grafB"), *(("v_dogman/1", f"v_dogman/{k}") for k in (2, 4, 6))]
)
def test_explains_as_much_as_the_oracle_on_photographs(data: Path, first: str, second: str) -> None:
    import delf_engine as de

    extractor = de.Extractor.from_pretrained("delf-r18", device="cpu")
    one, other = (extractor(data / "homography" / f"{name}.jpg") for name in (first, second))
    rows_a, rows_b = match_descriptors(one.descriptors, other.descriptors, max_distance=0.8).pairs.T
    a, b = one.keypoints[rows_a].astype(np.float64), other.keypoints[rows_b].astype(np.float64)
    scales_a, scales_b = one.scales[rows_a].astype(np.float64), other.scales[rows_b].astype(np.float64)
    for threshold in (6.0, 24.0):
        mine = exhaustive_affine(a, b, scales_a, scales_b, threshold=threshold)
        plain = oracle.search(a, b, scales_a, scales_b, threshold)
        assert mine is not None
        assert plain is not None
        assert oracle.score(mine, a, b, threshold) == pytest.approx(oracle.score(plain, a, b, threshold), rel=1e-3)
