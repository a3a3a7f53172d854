"""Where a photograph holds something: frames of one colour, flat patches, and what extraction makes of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delf_engine import Extractor, load_profile
from delf_engine.extraction.content import content_box, textured
from delf_engine.model.network import DelfNetwork

Pixels = npt.NDArray[np.uint8]


def noise(seed: int, width: int, height: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def framed(picture: Pixels, margins: tuple[int, int, int, int], colour: int) -> Pixels:
    left, top, right, bottom = margins
    pad = ((top, bottom), (left, right), (0, 0))
    return np.pad(picture, pad, constant_values=colour)


@given(
    seed=st.integers(0, 100),
    size=st.tuples(st.integers(20, 60), st.integers(20, 60)),
    margins=st.tuples(*[st.integers(0, 90)] * 4),
    colours=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_frames_inside_frames_are_peeled_off(
    seed: int, size: tuple[int, int], margins: tuple[int, int, int, int], colours: tuple[int, int]
) -> None:
    inner = framed(noise(seed, *size), margins, colours[0])
    left, top, _, _ = margins
    assert content_box(inner) == (left, top, left + size[0], top + size[1])
    outer = framed(inner, (7, 5, 3, 2), colours[1])
    assert content_box(outer) == (left + 7, top + 5, left + 7 + size[0], top + 5 + size[1])


def test_a_noisy_frame_is_one_and_a_picture_is_none() -> None:
    rng = np.random.default_rng(0)
    picture = framed(noise(1, 80, 60), (20, 10, 20, 10), 128)
    worn = np.clip(picture.astype(int) + rng.integers(-4, 5, picture.shape), 0, 255).astype(np.uint8)
    assert content_box(worn) == (20, 10, 100, 70)
    assert content_box(noise(2, 50, 40)) == (0, 0, 50, 40)
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (64, 64, 3))
    x0, y0, x1, y1 = content_box(ramp)  # its lines are of one colour each: only those near the outermost go
    assert (x0, x1) == (0, 64)
    assert 0 < y0 < 14
    assert 50 < y1 < 64


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (64, 48)])
def test_an_image_of_one_colour_holds_nothing(size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = content_box(np.full((size[1], size[0], 3), 200, np.uint8))
    assert (x1 - x0) * (y1 - y0) == 0


@given(
    seed=st.integers(0, 50),
    grid=st.sampled_from([(8, 0), (16, 0), (14, 6.5)]),
    height=st.integers(1, 70),
    width=st.integers(1, 70),
)
def test_textured_is_the_standard_deviation_around_each_cell(
    seed: int, grid: tuple[int, float], height: int, width: int
) -> None:
    stride, offset = grid
    rng = np.random.default_rng(seed)
    image = (rng.integers(0, 256, (height, width, 3)) * rng.choice([0.02, 1.0])).astype(np.uint8)
    window = 3 * stride
    found = textured(image, stride, window, 3.0, offset)
    assert found.shape == (-(-height // stride), -(-width // stride))
    grey = image @ [0.299, 0.587, 0.114]
    half = window // 2
    around = np.pad(grey, half, mode="symmetric") if min(height, width) >= half else None
    if around is not None:
        for (row, column), value in np.ndenumerate(found):
            y = min(row * stride + int(offset), height - 1)
            x = min(column * stride + int(offset), width - 1)
            spread = around[y : y + window, x : x + window].std()
            assert value == (spread >= 3.0) or abs(spread - 3.0) < 0.3


def test_a_framed_photograph_has_the_features_of_the_bare_one() -> None:
    torch.manual_seed(0)
    config = load_profile("default").extraction.model_copy(update={"precision": "fp32", "max_features": 100})
    trimming = Extractor(DelfNetwork("resnet18", 40, hidden=16), config, device="cpu")
    bare = noise(3, 300, 200) // 2 + 60
    own, found = trimming(bare), trimming(framed(bare, (40, 30, 20, 50), 255))
    assert len(own) > 0
    assert np.array_equal(own.descriptors, found.descriptors)
    np.testing.assert_allclose(found.keypoints, own.keypoints + np.float32([40, 30]), atol=1e-3)
    assert found.image_size == (360, 280)
    for flat in (
        np.full((200, 300, 3), 90, np.uint8),
        framed(np.full((80, 80, 3), 10, np.uint8), (9, 9, 9, 9), 250),
    ):
        assert len(trimming(flat)) == 0
