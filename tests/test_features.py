from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FeatureError
from delf_engine.features import LocalFeatures
from helpers import raises, random_features

ARRAYS = ("keypoints", "scales", "scores", "descriptors")


def parts(features: LocalFeatures, **changes: Any) -> dict[str, Any]:
    """Arguments that would build `features` again, some of them changed."""
    own = {name: getattr(features, name).copy() for name in ARRAYS}
    return {**own, "image_size": features.image_size, **changes}


@pytest.fixture
def features(rng: np.random.Generator) -> LocalFeatures:
    return random_features(rng, 12)


@given(n=st.integers(0, 30), dim=st.integers(1, 130), seed=st.integers(0, 2**32 - 1))
def test_shapes_and_dtypes(n: int, dim: int, seed: int) -> None:
    features = random_features(np.random.default_rng(seed), n, dim)
    assert len(features) == n
    assert features.dim == dim
    assert features.keypoints.shape == (n, 2)
    assert features.descriptors.shape == (n, dim)
    assert features.scales.shape == features.scores.shape == (n,)
    for name in ARRAYS:
        array = getattr(features, name)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_the_callers_arrays_are_neither_frozen_nor_shared(features: LocalFeatures) -> None:
    given_arrays = parts(features)
    built = LocalFeatures(**given_arrays)
    for name in ARRAYS:
        given_arrays[name][:] = 0.5
    assert built == features


def test_arrays_lent_by_other_libraries_are_not_shared(features: LocalFeatures) -> None:
    class Tensor:
        """Lends its memory through ``__array__``, as torch tensors do."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return self.array

    lent = {name: Tensor(getattr(features, name).copy()) for name in ARRAYS}
    built = LocalFeatures(**lent, image_size=features.image_size)  # type: ignore[arg-type]
    for tensor in lent.values():
        tensor.array[:] = 0.5
    assert built == features


def test_read_only_arrays_are_taken_without_a_copy(features: LocalFeatures) -> None:
    again = LocalFeatures(*(getattr(features, name) for name in ARRAYS), features.image_size)
    assert all(np.shares_memory(getattr(again, name), getattr(features, name)) for name in ARRAYS)


def test_lists_and_other_dtypes_are_converted(features: LocalFeatures) -> None:
    as_lists = {name: getattr(features, name).tolist() for name in ARRAYS}
    assert LocalFeatures(**as_lists, image_size=[640, 480]) == features  # type: ignore[arg-type]
    as_float64 = {name: getattr(features, name).astype(np.float64) for name in ARRAYS}
    assert LocalFeatures(**as_float64, image_size=np.array([640, 480])) == features  # type: ignore[arg-type]


def test_frozen(features: LocalFeatures) -> None:
    with pytest.raises(AttributeError):
        features.scores = features.scales  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        features.scores[0] = 1


@pytest.mark.parametrize("dim", [1, 40, 128])
def test_empty(dim: int) -> None:
    empty = LocalFeatures.empty((640, 480), dim)
    assert len(empty) == 0
    assert empty.dim == dim
    assert empty.top(5) is empty
    assert empty == LocalFeatures.empty((640, 480), dim)
    assert empty != LocalFeatures.empty((640, 481), dim)
    assert empty != LocalFeatures.empty((640, 480), dim + 1)
    assert json.loads(json.dumps(empty.to_dict()))["keypoints"] == []


@given(n=st.integers(0, 20), k=st.integers(0, 25))
def test_top_keeps_the_best_in_order(n: int, k: int) -> None:
    features = random_features(np.random.default_rng(n), n)
    best = features.top(k)
    assert len(best) == min(n, k)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(best, name), getattr(features, name)[:k])
    assert best.image_size == features.image_size
    assert best.dim == features.dim


def test_top_of_a_negative_number(features: LocalFeatures) -> None:
    with raises(FeatureError, "-1"):
        features.top(-1)


def test_equality_is_by_value(features: LocalFeatures) -> None:
    assert features == LocalFeatures(**parts(features))
    assert features != features.top(11)
    assert features != "features"
    for name in ("keypoints", "scales"):
        assert features != LocalFeatures(**parts(features, **{name: getattr(features, name) + 1}))
    with pytest.raises(TypeError):
        hash(features)


def test_copies_and_pickles_are_equal(features: LocalFeatures) -> None:
    assert copy.deepcopy(features) == features
    assert pickle.loads(pickle.dumps(features)) == features  # noqa: S301  # worker processes send them


def test_repr_is_short(features: LocalFeatures) -> None:
    assert repr(features) == "LocalFeatures(12 x 40-D, image 640 x 480)"


def test_to_dict_survives_json(features: LocalFeatures) -> None:
    back = json.loads(json.dumps(features.to_dict()))
    assert LocalFeatures(**back) == features


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(features: LocalFeatures, name: str, bad: float) -> None:
    array = getattr(features, name).copy()
    array.flat[3] = bad
    with raises(FeatureError, name):
        LocalFeatures(**parts(features, **{name: array}))


def test_values_beyond_float32_are_refused(features: LocalFeatures) -> None:
    keypoints = features.keypoints.astype(np.float64)
    keypoints[0, 0] = 1e300
    with raises(FeatureError, "keypoints"):
        LocalFeatures(**parts(features, keypoints=keypoints))


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"scales": np.ones(11)}, ("scales", "(12,)", "(11,)")),
        ({"keypoints": np.ones((12, 3))}, ("keypoints", "(12, 3)")),
        ({"keypoints": np.ones(24)}, ("keypoints", "(24,)")),
        ({"scores": np.ones((12, 1))}, ("scores", "(12, 1)")),
        ({"descriptors": np.ones((12, 0))}, ("descriptors",)),
        ({"descriptors": np.ones((12, 4))}, ("descriptors", "row 0", "2")),
        ({"descriptors": np.zeros((12, 4))}, ("descriptors", "row 0", "0")),
        ({"scales": np.zeros(12)}, ("scales",)),
        ({"scores": np.arange(12)}, ("scores",)),
        ({"keypoints": "here"}, ("keypoints",)),
        ({"keypoints": None}, ("keypoints",)),
        ({"descriptors": [[1.0], [1.0, 2.0]]}, ("descriptors",)),
        ({"image_size": (640,)}, ("image_size",)),
        ({"image_size": (640, 480, 3)}, ("image_size",)),
        ({"image_size": None}, ("image_size",)),
        ({"image_size": (float("inf"), 1)}, ("image_size",)),
        ({"image_size": (0, 480)}, ("image_size",)),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_is_no_set_of_features(
    features: LocalFeatures, changes: dict[str, Any], facts: tuple[str, ...]
) -> None:
    with raises(FeatureError, *facts):
        LocalFeatures(**parts(features, **changes))


def test_equal_scores_and_half_precision_descriptors_are_valid(features: LocalFeatures) -> None:
    rounded = features.descriptors.astype(np.float16)
    built = LocalFeatures(**parts(features, scores=np.ones(12), descriptors=rounded))
    np.testing.assert_array_equal(built.descriptors, rounded.astype(np.float32))
