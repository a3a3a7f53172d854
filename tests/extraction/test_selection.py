from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError
from delf_engine.extraction.selection import select, select_top

scores = st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf]), st.floats(width=32)), max_size=60)


@given(scores, st.integers(1, 70), st.floats(-3, 3, width=32))
def test_equals_a_plain_sort(values: list[float], k: int, least: float) -> None:
    array = np.array(values, np.float32)
    eligible = [i for i, v in enumerate(array) if v >= np.float32(least)]
    expected = sorted(eligible, key=lambda i: (-array[i], i))[:k]
    assert select_top(array, k, least).tolist() == expected
    assert select(array, k, least).tolist() == expected


def test_empty() -> None:
    assert len(select_top(np.empty(0, np.float32), 5, 0)) == 0


# ---------------------------------------------------------------------------------------------- without copies


def iou(a: list[float], b: list[float]) -> float:
    """Of x0, y0, x1, y1; 0 where no area is shared."""
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    shared = width * height
    if width <= 0 or height <= 0 or shared == 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared)


def oracle(
    values: npt.NDArray[np.float32],
    k: int,
    least: float,
    centres: npt.NDArray[np.floating],
    sides: npt.NDArray[np.floating],
    nms_iou: float | None,
    spread: int | None,
    spread_px: float,
) -> list[int]:
    """The rule, one cell after another."""
    c, half = centres.astype(np.float64), sides.astype(np.float64)[:, None] / 2
    boxes = np.concatenate([c - half, c + half], axis=1).tolist()
    kept: list[int] = []
    filled: dict[tuple[float, ...], int] = {}
    eligible = [i for i, v in enumerate(values) if v >= np.float32(least)]
    for i in sorted(eligible, key=lambda i: (-values[i], i)):
        with np.errstate(over="ignore"):
            field = tuple(np.floor((c[i] + 0.5) / spread_px))
        if len(kept) == k or (spread is not None and filled.get(field, 0) >= spread):
            continue
        if nms_iou is not None and any(iou(boxes[i], boxes[j]) > nms_iou for j in kept):
            continue
        filled[field] = filled.get(field, 0) + 1
        kept.append(i)
    return kept


near = st.floats(-2, 60, width=32)
far = st.floats(allow_nan=False, allow_infinity=False, width=32)
scenes = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf]) | st.floats(width=32),
        st.one_of(st.sampled_from([0.0, 8.0, 64.0]), near, far),
        st.one_of(st.sampled_from([0.0, 8.0, 64.0]), near, far),
        st.one_of(st.sampled_from([0.0, 1.0, 16.0, 32.0]), st.floats(0, 100, width=32), far.map(abs)),
    ),
    max_size=40,
)
overlaps = st.none() | st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]) | st.floats(0, 1)


def columns(scene: list[tuple[float, ...]]) -> tuple[npt.NDArray[np.float32], ...]:
    table = np.array(scene, np.float32).reshape(-1, 4)
    return table[:, 0], table[:, 1:3], table[:, 3]


@settings(max_examples=200, deadline=None)
@given(scenes, st.integers(1, 45), st.floats(-3, 3, width=32), overlaps, st.none() | st.integers(1, 4))
def test_equals_the_rule(
    scene: list[tuple[float, ...]], k: int, least: float, nms_iou: float | None, spread: int | None
) -> None:
    values, centres, sides = columns(scene)
    got = select(values, k, least, centres=centres, sides=sides, nms_iou=nms_iou, spread=spread, spread_px=16.0)
    assert got.dtype == np.int64
    assert got.tolist() == oracle(values, k, least, centres, sides, nms_iou, spread, 16.0)


def pyramid_cells(rng: np.random.Generator, n: int, *, levels: int = 5) -> tuple[npt.NDArray[Any], ...]:
    """Cells of several levels, many more than a hypothesis example has: the grids inside have many fields."""
    scale = 2.0 ** (-0.5 * rng.integers(0, levels, n))
    centres = np.floor(rng.uniform(0, 900, (n, 2)) * scale[:, None] / 16) * 16 / scale[:, None]
    return rng.permutation(n).astype(np.float32), centres, rng.choice([211, 267]) / scale


@pytest.mark.parametrize("nms_iou", [0.0, 0.1, 0.3, 0.5, 0.75, 0.9, 0.999])
@pytest.mark.parametrize("k", [40, 10_000])
def test_equals_the_rule_on_a_pyramid(nms_iou: float, k: int) -> None:
    rng = np.random.default_rng(int(nms_iou * 1000))
    values, centres, sides = pyramid_cells(rng, 700)
    values = np.floor(values / 3)  # ties
    got = select(values, k, 5, centres=centres, sides=sides, nms_iou=nms_iou, spread=5, spread_px=100)
    assert got.tolist() == oracle(values, k, 5, centres, sides, nms_iou, 5, 100)


@pytest.mark.parametrize("nms_iou", [0.0, 0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_torchvision(nms_iou: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, centres, sides = pyramid_cells(rng, 3000)
    if seed % 2:
        centres, sides = rng.uniform(0, 2000, (3000, 2)), rng.uniform(0, 300, 3000)
    half = sides[:, None] / 2
    boxes = torch.from_numpy(np.concatenate([centres - half, centres + half], axis=1))
    expected = torchvision.ops.nms(boxes, torch.from_numpy(values).double(), nms_iou).tolist()
    assert select(values, 3000, 0, centres=centres, sides=sides, nms_iou=nms_iou).tolist() == expected
    few = select(values, 77, 0, centres=centres, sides=sides, nms_iou=nms_iou).tolist()
    assert few == expected[:77]


def test_the_same_square_twice() -> None:
    twice = {"centres": np.zeros((2, 2)), "sides": np.full(2, 10.0)}
    values = np.array([1, 2], np.float32)
    assert select(values, 9, 0, **twice, nms_iou=1.0).tolist() == [1, 0]  # published DELF: off
    assert select(values, 9, 0, **twice, nms_iou=0.999).tolist() == [1]
    assert select(values, 9, 0, **twice).tolist() == [1, 0]


def test_an_overlap_at_the_threshold_is_kept() -> None:
    values, centres = np.array([2, 1], np.float32), np.array([[0.0, 0.0], [5.0, 0.0]])
    sides = np.full(2, 10.0)  # 50 shared, 150 in both
    assert len(select(values, 9, 0, centres=centres, sides=sides, nms_iou=50 / 150)) == 2
    assert len(select(values, 9, 0, centres=centres, sides=sides, nms_iou=np.nextafter(50 / 150, 0))) == 1


def test_squares_that_touch_do_not_overlap() -> None:
    centres, sides = np.array([[0.0, 0.0], [10.0, 0.0], [9.0, 10.0]]), np.full(3, 10.0)
    values = np.array([3, 2, 1], np.float32)
    assert select(values, 9, 0, centres=centres, sides=sides, nms_iou=0.0).tolist() == [0, 1, 2]


def test_the_grid_begins_at_the_corner_of_the_image() -> None:
    # Pixel -0.5 is the image's edge; 9.49 lies in the first ten pixels, 9.5 in the next.
    centres = np.array([[-0.4, 0], [9.49, 0], [9.5, 0], [19.4, 0]])
    values = np.array([4, 3, 2, 1], np.float32)
    assert select(values, 9, 0, centres=centres, spread=1, spread_px=10).tolist() == [0, 2]
    assert select(values, 9, 0, centres=centres, spread=2, spread_px=10).tolist() == [0, 1, 2, 3]


def test_spread_counts_only_what_is_kept() -> None:
    centres, sides = np.array([[1.0, 1.0], [2.0, 1.0], [30.0, 1.0]]), np.full(3, 20.0)
    values = np.array([3, 2, 1], np.float32)
    got = select(values, 9, 0, centres=centres, sides=sides, nms_iou=0.5, spread=2, spread_px=64)
    assert got.tolist() == [0, 2]


def test_looks_further_when_few_are_kept() -> None:
    n = 5000  # the best 4900 are copies of one cell
    centres = np.zeros((n, 2))
    centres[4900:, 0] = 100 * np.arange(1, 101)
    values = np.arange(n, 0, -1).astype(np.float32)
    expected = [0, *range(4900, 4919)]
    assert select(values, 20, 0, centres=centres, sides=np.full(n, 50.0), nms_iou=0.5).tolist() == expected
    assert select(values, 20, 0, centres=centres, spread=1).tolist() == expected


def test_inputs_are_not_changed_and_may_be_read_only() -> None:
    values, centres, sides = pyramid_cells(np.random.default_rng(0), 50)
    for array in (values, centres, sides):
        array.flags.writeable = False
    first = select(values, 9, 0, centres=centres, sides=sides, nms_iou=0.5, spread=2)
    again = select(values, 9, 0, centres=centres, sides=sides, nms_iou=0.5, spread=2)
    assert first.tolist() == again.tolist()


def test_nothing_eligible() -> None:
    none = {"centres": np.empty((0, 2)), "sides": np.empty(0)}
    assert len(select(np.empty(0, np.float32), 5, 0, **none, nms_iou=0.5, spread=1)) == 0
    one = {"centres": np.zeros((1, 2)), "sides": np.ones(1)}
    assert len(select(np.array([np.nan], np.float32), 5, 0, **one, nms_iou=0.5, spread=1)) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nms_iou": 1.5}, ConfigError, "between 0 and 1"),
        ({"nms_iou": np.nan}, ConfigError, "between 0 and 1"),
        ({"spread": 0}, ConfigError, "at least 1"),
        ({"spread": 1, "spread_px": 0}, ConfigError, "above 0"),
        ({"nms_iou": 0.5, "sides": None}, FeatureError, r"sides .* got nothing"),
        ({"spread": 1, "centres": None}, FeatureError, r"centres .* got nothing"),
        ({"spread": 1, "centres": np.zeros((2, 2))}, FeatureError, r"shape \(3, 2\), got shape \(2, 2\)"),
        ({"spread": 1, "centres": np.full((3, 2), np.nan)}, FeatureError, "NaN"),
        ({"nms_iou": 0.5, "sides": -np.ones(3)}, FeatureError, "negative"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"centres": np.zeros((3, 2)), "sides": np.ones(3), **options}
    with pytest.raises(error, match=message):
        select(np.ones(3, np.float32), 5, 0, **arguments)
