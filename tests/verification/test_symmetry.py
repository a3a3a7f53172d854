"""Which of two images is A decides the direction of the transform, and nothing else: to the bit."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine import Extractor, load_profile
from delf_engine.config import VerificationConfig
from delf_engine.features import LocalFeatures
from delf_engine.verification import PairVerifier, Verification, verify_features
from delf_engine.verification.models import ESTIMATORS
from helpers import random_features

PROFILES = ["delf", "d2r", "delg", "fast", "accurate", "default", "strong", "large", "how"]
DEFAULT = load_profile("default").verification


def assert_mirrored(ab: Verification, ba: Verification) -> None:
    directed = {"transform", "matches", "similarities"}
    of_ab, of_ba = ab.to_dict(), ba.to_dict()
    assert {name: of_ab[name] for name in of_ab.keys() - directed} == {
        name: of_ba[name] for name in of_ba.keys() - directed
    }
    pairs = [
        sorted(zip(found.matches[:, ::way].tolist(), found.similarities.tolist(), strict=True))
        for found, way in ((ab, 1), (ba, -1))
    ]
    assert pairs[0] == pairs[1]
    for found in (ab, ba):
        assert (np.diff(found.matches[:, 0]) >= 0).all()
    assert (ab.transform is None) == (ba.transform is None)
    if ab.transform is not None and ba.transform is not None:
        assert ab.inverse is not None
        size = np.abs(ba.transform).max(axis=1, keepdims=True)
        np.testing.assert_allclose(ab.inverse / size, ba.transform / size, rtol=0, atol=1e-6)


def views(rng: np.random.Generator, n: int, m: int, shared: int, *, twins: bool) -> list[LocalFeatures]:
    """Two images that share features, some of them exactly, some twice in one image."""
    a, b = random_features(rng, n), random_features(rng, m)
    keypoints, descriptors, scales = b.keypoints.copy(), b.descriptors.copy(), b.scales.copy()
    noise = rng.choice([0.0, 0.1], (shared, 1)) * rng.normal(0, 1, (shared, a.dim)) / np.sqrt(a.dim)
    keypoints[:shared] = a.keypoints[:shared] * 1.1 + rng.normal(5, 4, (shared, 2))
    descriptors[:shared] = a.descriptors[:shared] + noise
    scales[:shared] = a.scales[:shared]
    if twins and m > 1:
        descriptors[-1] = descriptors[0]
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return [a, LocalFeatures(keypoints, scales, b.scores, descriptors, (700, 500))]


@pytest.mark.parametrize(("model", "estimator"), list(ESTIMATORS))
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 60),
    m=st.integers(0, 60) | st.none(),
    share=st.floats(0, 1),
    twins=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "precision": st.sampled_from(["float32", "uint8"]),
            "ratio": st.sampled_from([None, 0.9]),
            "max_distance": st.sampled_from([None, 0.8]),
            "reference_size": st.sampled_from([None, 400]),
        }
    ),
)
def test_any_pair_any_estimator(
    model: str,
    estimator: str,
    seed: int,
    n: int,
    m: int | None,
    share: float,
    twins: bool,
    options: dict[str, object],
) -> None:
    rng = np.random.default_rng(seed)
    sizes = n, n if m is None else m  # as many on both sides, as of images that have the most
    a, b = views(rng, *sizes, int(share * min(sizes)), twins=twins)
    config = DEFAULT.model_copy(
        update={"model": model, "estimator": estimator, "max_iterations": 200, "residual_px": 12.0, **options}
    )
    ab, ba = (verify_features(*pair, config=config, seed=seed) for pair in ((a, b), (b, a)))
    assert_mirrored(ab, ba)
    assert PairVerifier(b, config=config, seed=seed)(a) == ba


@pytest.mark.parametrize("field", ["keypoints", "scales", "descriptors", "image_size"])
def test_what_differs_in_one_thing_only_has_an_order_too(rng: np.random.Generator, field: str) -> None:
    a = random_features(rng, 60)
    values = {name: getattr(a, name) for name in ("keypoints", "scales", "scores", "descriptors", "image_size")}
    values[field] = (900, 700) if field == "image_size" else np.roll(values[field], 1, axis=0)
    b = LocalFeatures(**values)
    config = DEFAULT.model_copy(update={"estimator": "ransac", "residual_px": 3.0, "reference_size": 300})
    assert_mirrored(verify_features(a, b, config=config), verify_features(b, a, config=config))


@pytest.fixture(scope="module")
def real_pairs(data: Path) -> list[tuple[LocalFeatures, LocalFeatures]]:
    """All 210 pairs of 21 photographs: of three places, and others."""
    extractor = Extractor.from_pretrained("delf-r18", device="cpu")
    folders = {"homography/v_dogman": 5, "homography/graf": 2, "strecha/castle": 6, "distractors": 8}
    photos = [path for folder, count in folders.items() for path in sorted((data / folder).glob("*.jpg"))[:count]]
    found = [extractor(photo) for photo in photos]
    assert len(found) == 21
    return list(combinations(found, 2))


def configs() -> dict[str, VerificationConfig]:
    """Those of all profiles that differ and match both ways, and all estimators."""
    found = {name: load_profile(name).verification for name in PROFILES if load_profile(name).verification.mutual}
    found |= {
        f"{model}, {estimator}": DEFAULT.model_copy(update={"model": model, "estimator": estimator})
        for model, estimator in ESTIMATORS
    }
    return {each.model_dump_json(): each for each in found.values()}


@pytest.mark.parametrize("config", configs().values(), ids=lambda config: f"{config.model}-{config.estimator}")
def test_real_pairs(real_pairs: list[tuple[LocalFeatures, LocalFeatures]], config: VerificationConfig) -> None:
    same = 0
    for a, b in real_pairs:
        ab, ba = verify_features(a, b, config=config, seed=3), verify_features(b, a, config=config, seed=3)
        assert_mirrored(ab, ba)
        same += ab.same
    assert same >= 15
