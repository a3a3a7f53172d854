from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.storage.codec import CODECS, Codec, as_stored, decode, encode
from helpers import raises, random_features

CASES = st.tuples(st.integers(0, 2**32), st.sampled_from([0, 1, 2, 37]), st.sampled_from([1, 2, 40, 64, 65, 128]))


def bound(codec: Codec, descriptors: np.ndarray) -> np.ndarray:
    """The error that the codec's documentation allows each descriptor."""
    dim = descriptors.shape[1]
    if codec == "float32":
        return np.zeros(len(descriptors))
    if codec == "float16":
        return np.full(len(descriptors), 2.0**-10 + 2.0**-23 * np.sqrt(dim))
    return np.sqrt(dim) * np.abs(descriptors).max(axis=1) / 127 + 1e-6


@given(CASES, st.sampled_from(CODECS))
@settings(deadline=None)
def test_round_trip_within_the_documented_error(case: tuple[int, int, int], codec: Codec) -> None:
    seed, n, dim = case
    features = random_features(np.random.default_rng(seed), n, dim, (1, 70_000))
    back = decode(encode(features, codec, b"id"), b"id", "id")
    for name in ("keypoints", "scales", "scores"):
        np.testing.assert_array_equal(getattr(back, name), getattr(features, name))
    assert back.image_size == features.image_size
    assert back.descriptors.shape == (n, dim)
    assert (
        np.linalg.norm(back.descriptors - features.descriptors, axis=1) <= bound(codec, features.descriptors)
    ).all()
    assert not back.descriptors.flags.writeable
    kept = as_stored(features, codec)
    assert kept == back
    assert kept.descriptors.tobytes() == back.descriptors.tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("norm", [0.9801, 1.0199])
def test_norms_at_the_limit_of_the_record_survive(codec: Codec, norm: float) -> None:
    unit = random_features(np.random.default_rng(0), 50).descriptors
    one = np.ones(50)
    features = LocalFeatures(np.zeros((50, 2)), one, one, unit * norm, (9, 9))
    assert len(decode(encode(features, codec, b"i"), b"i", "i")) == 50


@pytest.mark.parametrize("codec", CODECS)
def test_extreme_keypoints_are_exact(codec: Codec) -> None:
    huge = np.float32(3e38)
    keypoints = np.array([[-huge, huge], [1e-40, -0.0]], np.float32)
    features = LocalFeatures(keypoints, np.array([1e-38, huge]), np.array([huge, 0]), np.eye(2), (2**63, 1))
    back = decode(encode(features, codec, b"i"), b"i", "i")
    assert back == features  # unit vectors along an axis are exact in every codec
    assert np.signbit(back.keypoints[1, 1])


@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(CODECS))
@settings(deadline=None)
def test_every_flipped_byte_is_found(position: int, flip: int, codec: Codec) -> None:
    value = bytearray(encode(random_features(np.random.default_rng(0), 9, 5), codec, b"name"))
    value[position % len(value)] ^= flip
    if position % len(value) in range(36, 40):
        return  # padding behind the checksum
    with raises(FormatError):
        decode(bytes(value), b"name", "photo")


def test_cut_short_and_swapped_values_are_found() -> None:
    value = encode(random_features(np.random.default_rng(0), 9, 5), "float32", b"name")
    for length in (0, 3, 39, 40, len(value) - 1):
        with raises(FormatError):
            decode(value[:length], b"name", "photo")
    with raises(FormatError):
        decode(value, b"other", "photo")
