"""What an answer says beside its inliers: places, error, ratio, inverse; by hand and of matched images."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import VerificationConfig, load_profile
from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.verification import FineEvidence, Verification, verify_features
from delf_engine.verification.geometry import fundamental_residuals, pixel_frame, planar_residuals
from delf_engine.verification.models import ESTIMATORS
from delf_engine.verification.result import percent
from helpers import random_features

Float64 = npt.NDArray[np.float64]

DEFAULT = load_profile("default").verification
TRUTH = np.array([[0.95, 0.05, 60.0], [-0.04, 1.02, -30.0], [0.0, 0.0, 1.0]])
EVIDENCE = ("estimator", "effective_inliers", "error_px", "probability")


def config(model: str, estimator: str, **options: Any) -> VerificationConfig:
    return DEFAULT.model_copy(update={"model": model, "estimator": estimator, **options})


def pair(
    seed: int, *, n: int = 120, shared: int = 80, size: tuple[int, int] = (2000, 1500)
) -> tuple[LocalFeatures, LocalFeatures]:
    """Two images, the second twice as large; the first `shared` features are in both, to about three pixels."""
    rng = np.random.default_rng(seed)
    a, b = random_features(rng, n, image_size=size), random_features(rng, n, image_size=size)
    keypoints, descriptors = b.keypoints.astype(np.float64), b.descriptors.copy()
    keypoints[:shared] = a.keypoints[:shared] @ TRUTH[:2, :2].T + TRUTH[:2, 2] + rng.normal(0, 3, (shared, 2))
    descriptors[:shared] = a.descriptors[:shared]
    scales = np.r_[a.scales[:shared], b.scales[shared:]]
    large = (2 * size[0], 2 * size[1])
    return a, LocalFeatures(2 * keypoints + 0.5, 2 * scales, b.scores, descriptors, large)  # type: ignore[arg-type]


def residuals_in_frame(
    found: Verification, a: LocalFeatures, b: LocalFeatures, reference_size: int | None
) -> Float64:
    """Those of the inliers, measured anew: the transform is carried over to the images shrunk to the reference."""
    assert found.transform is not None
    frames = [pixel_frame(image.image_size, reference_size) for image in (a, b)]
    sides = []
    for image, rows, frame in zip((a, b), found.matches.T, frames, strict=True):
        at = np.c_[image.keypoints[rows].astype(np.float64), np.ones(len(rows))] @ frame.T
        sides.append(at[:, :2])
    inverse = [np.linalg.inv(frame) for frame in frames]
    if found.model == "fundamental":
        return fundamental_residuals(inverse[1].T @ found.transform @ inverse[0], *sides)
    return planar_residuals(frames[1] @ found.transform @ inverse[0], *sides)


@pytest.mark.parametrize(("model", "estimator"), list(ESTIMATORS))
@pytest.mark.parametrize("reference_size", [None, 1024])
def test_error_is_the_root_mean_square_of_the_inliers_residuals(
    model: str, estimator: str, reference_size: int | None
) -> None:
    for seed in range(3):
        a, b = pair(seed)
        found = verify_features(a, b, config=config(model, estimator, reference_size=reference_size), seed=seed)
        assert found.inliers >= 75
        expected = residuals_in_frame(found, a, b, reference_size)
        assert expected.max() <= 24 * (1 + 1e-9)
        assert found.error_px == pytest.approx(np.sqrt(np.mean(expected**2)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("model", "estimator"), list(ESTIMATORS))
def test_effective_inliers_are_places(model: str, estimator: str) -> None:
    a, b = pair(1)
    found = verify_features(a, b, config=config(model, estimator))
    places = []
    for image, rows in zip((a, b), found.matches.T, strict=True):
        s = 1024 / max(image.image_size)
        framed = (image.keypoints[rows].astype(np.float64) + 0.5) * s  # from the corner of the first pixel
        places.append(len({(int(x // 24), int(y // 24)) for x, y in framed}))
    assert found.effective_inliers == min(places) <= found.inliers
    assert found.inlier_ratio == found.inliers / found.putative


def answer(**changes: Any) -> Verification:
    values: dict[str, Any] = {
        "model": "affine",
        "transform": TRUTH,
        "matches": [[0, 3], [2, 1]],
        "similarities": [0.9, 0.8],
        "putative": 8,
        "residual_px": 24.0,
        "reference_size": 1024,
        "min_inliers": 2,
        "similarity": 4.5,
        "exponent": 2.0,
    }
    return Verification(**{**values, **changes})


def test_by_hand() -> None:
    assert answer().inlier_ratio == 0.25
    assert answer(putative=0, matches=[], similarities=[]).inlier_ratio == 0
    assert answer().effective_inliers == 2
    assert answer(effective_inliers=1).effective_inliers == 1
    assert (answer().estimator, answer().error_px, answer().probability) == ("ransac", None, None)
    assert answer(transform=None).inverse is None
    F = np.arange(9.0).reshape(3, 3)
    inverse = answer(model="fundamental", transform=F).inverse
    assert inverse is not None
    assert inverse.tolist() == F.T.tolist()


def test_equality_is_by_value() -> None:
    found = answer()
    assert (found.inliers, found.same, answer(min_inliers=3).same) == (2, True, False)
    assert found == answer()
    for changes in (
        {"transform": None, "matches": [], "similarities": []},
        {"similarities": [0.9, 0.7]},
        {"similarity": 4.25},
        {"exponent": 3.0},
        {"estimator": "exhaustive"},
        {"effective_inliers": 1},
        {"error_px": 1.0},
        {"probability": 0.5},
    ):
        assert answer(**changes) != found
    assert found.inlier_similarity == pytest.approx(0.9**2 + 0.8**2)
    assert found != "something else"
    with pytest.raises(TypeError):
        hash(found)
    with pytest.raises(ValueError, match="reshape"):
        answer(similarities=[0.9])


def test_without_a_probability_the_inliers_decide() -> None:
    assert (answer().verdict, answer(min_inliers=3).verdict) == ("same", "different")
    assert (bool(answer()), bool(answer(min_inliers=3))) == (True, False)


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [(0.0, "different"), (0.49, "different"), (0.5, "unsure"), (0.95, "same"), (1.0, "same")],
)
@pytest.mark.parametrize("min_inliers", [1, 100])
def test_the_probability_decides_whatever_the_inliers(probability: float, verdict: str, min_inliers: int) -> None:
    found = answer(probability=probability, accept=0.95, min_inliers=min_inliers)
    assert found.verdict == verdict
    assert found.same is bool(found) is (verdict == "same")
    words = {"same": "the same place", "different": "not the same place", "unsure": "perhaps the same place"}
    assert str(found).startswith(f"{words[verdict]} (probability {percent(probability)}): {found.why}"[:30])
    assert found.to_dict()["verdict"] == verdict
    assert found.to_dict()["same"] is found.same


def test_says_why() -> None:
    assert "2 of 8" in answer().why
    look_alike = answer(probability=0.2, accept=0.9, fine=FineEvidence(40, 12, 5))
    assert "look-alike" in look_alike.why
    seen = answer(probability=0.99, accept=0.9, fine=FineEvidence(40, 25, 18), overlay=7, rotation=90)
    for fact in ("25 details", "7 matches", "90 degrees"):
        assert fact in seen.why
    assert "look-alike" not in seen.why


def test_answer_prints_well() -> None:
    assert repr(answer()) == (
        "Verification(verdict='same', inliers=2, putative=8, similarity=4.5, model='affine')"
    )
    assert str(answer(model="homography")) == "the same place: 2 of 8 coarse matches agree on one homography"
    html = answer()._repr_html_()
    assert html.startswith("<strong")
    assert html.count("<tr>") == html.count("</tr>") == 5
    assert "Not the same place" in answer(min_inliers=3)._repr_html_()
    sure = answer(probability=0.99999, accept=0.9, error_px=3.25, effective_inliers=2)
    html = sure._repr_html_()
    for text in ("&gt; 99.9 %", "3.2 px", "2 places"):
        assert text in html


@given(seed=st.integers(0, 10**6), perspective=st.sampled_from([0.0, 1e-4]))
def test_inverse_of_a_planar_transform_is_one_of_customary_scale(seed: int, perspective: float) -> None:
    rng = np.random.default_rng(seed)
    H = np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))
    H[:2, 2] = rng.uniform(-1000, 1000, 2)
    H[2] = [*rng.uniform(-perspective, perspective, 2), 1]
    inverse = answer(model="homography", transform=H).inverse
    assert inverse is not None
    assert inverse[2, 2] == 1
    product = inverse @ H
    np.testing.assert_allclose(product / product[2, 2], np.eye(3), atol=1e-9)
    twice = answer(model="homography", transform=inverse).inverse
    assert twice is not None
    np.testing.assert_allclose(twice, H, rtol=1e-9, atol=1e-9)


def test_the_origin_of_b_may_lie_on_the_horizon() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]]) @ np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    H = np.linalg.inv(H / H[2, 2])
    H[2, 2] = 0  # x = 0 goes to infinity
    inverse = answer(model="homography", transform=H).inverse
    assert inverse is not None
    product = inverse @ H
    np.testing.assert_allclose(product / product[2, 2], np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "0.0 %"),
        (1.0, "100.0 %"),
        (0.5, "50.0 %"),
        (0.997, "99.7 %"),
        (0.9994, "99.9 %"),
        (0.9996, "> 99.9 %"),
        (1 - 1e-16, "> 99.9 %"),
        (0.0004, "< 0.1 %"),
        (5e-324, "< 0.1 %"),
        (0.0006, "0.1 %"),
    ],
)
def test_percent_never_looks_surer_than_it_is(probability: float, text: str) -> None:
    assert percent(probability) == text


@given(
    effective=st.integers(0, 2),
    error=st.one_of(st.none(), st.floats(0, 1e9)),
    probability=st.one_of(st.none(), st.floats(0, 1)),
    fine=st.none()
    | st.builds(
        FineEvidence,
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 9),
        st.sampled_from([None, ((1.0, 0.5, 2.0), (0.0, 1.0, 3.0), (0.0, 0.0, 1.0))]),
        st.integers(0, 9),
    ),
    estimator=st.sampled_from(sorted({estimator for _, estimator in ESTIMATORS})),
)
def test_all_fields_survive_json(
    effective: int, error: float | None, probability: float | None, fine: FineEvidence | None, estimator: str
) -> None:
    found = answer(
        effective_inliers=effective, error_px=error, probability=probability, fine=fine, estimator=estimator
    )
    values = json.loads(json.dumps(found.to_dict()))
    again = Verification.from_dict(values)
    assert again == found
    for name in EVIDENCE:
        assert getattr(again, name) == getattr(found, name) == values[name]
    assert (values["inlier_ratio"], values["same"]) == (0.25, True)


def test_every_field_must_be_there() -> None:
    values = answer().to_dict()
    for name in set(values) - {"verdict", "why", "same", "inliers", "inlier_ratio", "inlier_similarity"}:
        with pytest.raises(FormatError, match=name):
            Verification.from_dict({key: value for key, value in values.items() if key != name})


def test_arrays_are_copied_once() -> None:
    matches = np.array([[0, 3], [2, 1]], np.int32)
    found = answer(matches=matches)
    matches[0] = 9  # the caller's own
    assert found.matches.tolist() == [[0, 3], [2, 1]]
    again = replace(found, probability=0.5)
    for name in ("matches", "similarities", "transform"):
        assert np.shares_memory(getattr(again, name), getattr(found, name))
        assert not getattr(again, name).flags.writeable
    view = np.array([[0, 3], [2, 1]], np.int32)
    locked = view[:]
    locked.flags.writeable = False
    found = answer(matches=locked)  # read-only to us, and not to whoever holds `view`
    view[0] = 9
    assert found.matches.tolist() == [[0, 3], [2, 1]]


@pytest.mark.parametrize(
    "damage",
    [
        {"error_px": "near"},
        {"error_px": [1.0]},
        {"probability": "likely"},
        {"probability": 1.5},
        {"probability": -0.1},
        {"effective_inliers": None},
        {"reference_size": "large"},
        {"transform": [[1, 2], [3, 4]]},
        {"transform": "none"},
        {"similarities": [1.0]},
        {"matches": [[1, 2, 3]]},
        {"putative": "x"},
        {"fine": 3},
        {"fine": {"putative": 3}},
        {"fine": {"putative": 3, "epipolar": 2, "planar": 1, "homography": [[1]], "overlay": 0}},
        {"accept": "often"},
        {"rotation": None},
    ],
)
def test_damaged_fields_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Verification.from_dict({**answer().to_dict(), **damage})
