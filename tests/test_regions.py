from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, FeatureError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.regions import (
    Regions,
    assign_to_regions,
    attention_boxes,
    box_iou,
    clip_boxes,
    read_boxes,
    rigid_grid,
    write_boxes,
)
from helpers import random_features

# ------------------------------------------------------------------------------------------------------ boxes

coordinate = st.floats(-50, 150, width=32)


@st.composite
def boxes_of(draw: st.DrawFn, most: int = 8) -> npt.NDArray[np.float32]:
    corners = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=most))
    table = np.array(corners, np.float32).reshape(-1, 2, 2)
    table.sort(axis=1)
    return table.reshape(-1, 4)[(table[:, 0] < table[:, 1]).all(axis=1)]


@given(boxes_of())
def test_clipping(boxes: npt.NDArray[np.float32]) -> None:
    expected = []
    for x0, y0, x1, y1 in boxes.tolist():
        box = [max(x0, 0), max(y0, 0), min(x1, 100), min(y1, 80)]
        if box[0] < box[2] and box[1] < box[3]:
            expected.append(box)
    got = clip_boxes(boxes, (100, 80))
    assert got.dtype == np.float32
    assert got.shape == (len(expected), 4)
    assert got.tolist() == expected
    assert np.array_equal(clip_boxes(got, (100, 80)), got)


@pytest.mark.parametrize("empty", [[], np.empty((0, 4)), ()])
def test_no_boxes(empty: Any) -> None:
    assert clip_boxes(empty, (9, 9)).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 1]], "shape"),
        ([0, 0, 1, 1], "shape"),
        (np.empty((0, 5)), "shape"),
        ([[0, 0, 1, 1], [0, 0]], "numbers"),
        ([["a", 0, 1, 1]], "numbers"),
        ([[0, 0, 1, 1], [0, 0, np.nan, 1]], "box 1 has NaN"),
        ([[0, 0, 1e300, 1]], "box 0 has NaN or inf"),
        ([[3, 0, 3, 1]], "box 0 is empty"),
        ([[0, 5, 3, 1]], "box 0 is empty"),
    ],
)
def test_wrong_boxes(boxes: Any, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        clip_boxes(boxes, (9, 9))


@given(boxes_of(), boxes_of())
def test_iou_equals_torchvision(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> None:
    expected = torchvision.ops.box_iou(torch.from_numpy(some).double(), torch.from_numpy(others).double()).numpy()
    for i, box in enumerate(some):
        np.testing.assert_allclose(box_iou(box, others), expected[i], atol=1e-12)


# ------------------------------------------------------------------------------------------------------- grid


def published(width: int, height: int, levels: int) -> list[list[int]]:
    """R-MAC's sampling as its authors' code states it, in exact numbers: steps, overplus, starts."""
    shorter = min(width, height)
    steps = range(2, 8)
    misfit = [
        abs(
            Fraction(shorter**2 - shorter * Fraction(max(width, height) - shorter, s - 1), shorter**2)
            - Fraction(2, 5)
        )
        for s in steps
    ]
    plus = misfit.index(min(misfit)) + 1
    plus_x, plus_y = plus if width > height else 0, plus if height > width else 0
    out = []
    for level in range(1, levels + 1):
        side = 2 * shorter // (level + 1)
        if side == 0:
            continue
        step_x = Fraction(width - side, level + plus_x - 1) if level + plus_x > 1 else Fraction(0)
        step_y = Fraction(height - side, level + plus_y - 1) if level + plus_y > 1 else Fraction(0)
        for i in range(level + plus_y):
            for j in range(level + plus_x):
                x, y = int(j * step_x), int(i * step_y)
                out.append([x, y, x + side, y + side])
    return out


@settings(max_examples=300)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 5))
def test_the_grid_is_the_published_one(width: int, height: int, levels: int) -> None:
    assume(max(width, height) <= 4.8 * min(width, height))
    assert rigid_grid((width, height), levels).tolist() == published(width, height, levels)


def test_a_grid_known_from_elsewhere() -> None:
    """Of an image of 496 x 280, as code of others lists it (with inclusive ends there)."""
    assert rigid_grid((496, 280), 2).tolist() == [
        [0, 0, 280, 280],
        [216, 0, 496, 280],
        *([x, y, x + 186, y + 186] for y in (0, 94) for x in (0, 155, 310)),
    ]


def test_of_two_numbers_as_close_the_smaller_is_taken() -> None:
    # Two regions share 20 % of a side, three 60 %.
    assert len(rigid_grid((900, 500), 1)) == 2
    assert len(rigid_grid((500, 900), 1)) == 2


def test_the_whole_image_first() -> None:
    grid = rigid_grid((640, 480), whole=True)
    assert grid[0].tolist() == [0, 0, 640, 480]
    assert np.array_equal(grid[1:], rigid_grid((640, 480)))
    assert rigid_grid((50, 50), 1, whole=True).tolist() == [[0, 0, 50, 50]] * 2


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 4), st.floats(0, 0.95))
def test_any_grid_lies_in_the_image_and_covers_it(width: int, height: int, levels: int, overlap: float) -> None:
    grid = rigid_grid((width, height), levels, overlap)
    assert np.array_equal(clip_boxes(grid, (width, height)), grid)
    first = grid[grid[:, 2] - grid[:, 0] == min(width, height)]
    assert first[:, :2].min() == 0
    assert first[:, 2].max() == width
    assert first[:, 3].max() == height
    starts = np.unique(first[:, :2].max(axis=1))
    assert (np.diff(starts) <= min(width, height) * 1.5 + 1).all()


def test_long_images_have_no_gaps() -> None:
    starts = rigid_grid((20_000, 1000), 1)[:, 0]
    assert np.diff(starts).max() <= 620


@pytest.mark.parametrize(
    ("size", "options"),
    [((0, 5), {}), ((5, 5), {"levels": 0}), ((5, 5), {"overlap": 1.0}), ((5, 5), {"overlap": -0.1})],
)
def test_wrong_grids(size: tuple[int, int], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        rigid_grid(size, **options)


# -------------------------------------------------------------------------------------------------- attention


def test_blobs_are_found_where_they_are() -> None:
    scores = np.zeros((30, 40))
    scores[5:10, 10:20] = 2
    scores[20:26, 25:33] = 3
    boxes = attention_boxes(scores, (400, 300), thresholds=[0.5])
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[250, 200, 330, 260], [100, 50, 200, 100]]


def test_cells_are_stretched_to_the_image() -> None:
    scores = np.zeros((3, 7))
    scores[1, 2:4] = 1
    (box,) = attention_boxes(scores, (100, 50), thresholds=[0.5], min_area=0)
    np.testing.assert_allclose(box, [200 / 7, 50 / 3, 400 / 7, 100 / 3], rtol=1e-6)


def test_corners_connect() -> None:
    scores = np.zeros((10, 10))
    scores[[2, 3, 4], [2, 3, 4]] = 1
    assert attention_boxes(scores, (10, 10), thresholds=[0.5]).tolist() == [[2, 2, 5, 5]]


def test_equal_means_by_area_then_position() -> None:
    scores = np.zeros((20, 20))
    scores[1:3, 15:17] = scores[10:12, 2:4] = scores[10:12, 8:10] = scores[15:19, 1:6] = 1
    boxes = attention_boxes(scores, (20, 20), thresholds=[0.5])
    assert boxes[:, :2].astype(int).tolist() == [[1, 15], [15, 1], [2, 10], [8, 10]]
    assert np.array_equal(attention_boxes(scores, (20, 20), thresholds=[0.5], max_boxes=2), boxes[:2])


def test_the_same_blob_at_two_thresholds_is_one_region() -> None:
    scores = np.zeros((20, 20))
    scores[4:14, 4:14] = 1
    scores[4:14, 4:13] = 2
    assert len(attention_boxes(scores, (20, 20), thresholds=[0.5, 0.7])) == 1
    scores[4:14, 8:14] = 1
    assert len(attention_boxes(scores, (20, 20), thresholds=[0.5, 0.85])) == 2


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
    st.floats(1e-3, 1e3),
    st.floats(0, 0.2),
    st.integers(1, 6),
)
def test_any_map(h: int, w: int, random: Any, factor: float, min_area: float, most: int) -> None:
    values = [0.0, 1.0, 2.0, 3.0, float("nan"), float("inf")]
    scores = np.array([random.choice(values) for _ in range(h * w)]).reshape(h, w)
    boxes = attention_boxes(scores, (640, 480), min_area=min_area, max_boxes=most)
    assert len(boxes) <= most
    assert np.array_equal(clip_boxes(boxes, (640, 480)), boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert (area >= min_area * 640 * 480 * (1 - 1e-5)).all()
    for i, box in enumerate(boxes):
        assert (box_iou(box, boxes[:i]) <= 0.9).all()
    again = attention_boxes(scores, (640, 480), min_area=min_area, max_boxes=most)
    assert np.array_equal(again, boxes)
    # Another checkpoint's scores, in the same order: powers of two scale without rounding.
    scale = 2.0 ** np.round(np.log2(factor))
    scaled = attention_boxes(scores * scale, (640, 480), min_area=min_area, max_boxes=most)
    assert np.array_equal(scaled, boxes)


@pytest.mark.parametrize(
    "scores", [np.zeros((0, 0)), np.zeros((0, 5)), np.ones((6, 8)), np.full((2, 2), np.nan), np.ones((1, 1))]
)
def test_maps_in_which_nothing_stands_out(scores: npt.NDArray[np.float64]) -> None:
    assert attention_boxes(scores, (64, 48)).shape == (0, 4)


def test_a_cell_that_is_not_a_number_parts_a_blob() -> None:
    scores = np.zeros((5, 9))
    scores[:, 2:7] = 1
    scores[:, 4] = np.nan
    assert attention_boxes(scores, (9, 5), thresholds=[0.3]).tolist() == [[2, 0, 4, 5], [5, 0, 7, 5]]


def test_no_thresholds_no_boxes() -> None:
    assert attention_boxes(np.eye(5), (5, 5), thresholds=[]).shape == (0, 4)


@pytest.mark.parametrize(
    "options", [{"thresholds": [1.0]}, {"thresholds": [-0.1]}, {"min_area": 2}, {"max_boxes": 0}]
)
def test_wrong_options_of_attention(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        attention_boxes(np.eye(5), (5, 5), **options)


def test_a_map_of_other_dimensions() -> None:
    with pytest.raises(FeatureError, match=r"\(h, w\), got \(5,\)"):
        attention_boxes(np.ones(5), (5, 5))


# ------------------------------------------------------------------------------------------------ assignment


def at(points: list[tuple[float, float]], size: tuple[int, int] = (100, 80)) -> LocalFeatures:
    n = len(points)
    keypoints = np.array(points, np.float32).reshape(n, 2)
    return LocalFeatures(keypoints, np.ones(n), np.zeros(n), np.ones((n, 1)), size)  # type: ignore[arg-type]


@given(st.lists(st.tuples(coordinate, coordinate), max_size=30), boxes_of())
def test_assignment_equals_a_loop(points: list[tuple[float, float]], boxes: npt.NDArray[np.float32]) -> None:
    features = at(points)
    expected = [
        [i for i, (x, y) in enumerate(points) if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1]
        for x0, y0, x1, y1 in boxes.tolist()
    ]
    got = assign_to_regions(features, boxes)
    assert [one.tolist() for one in got] == expected
    assert all(one.dtype == np.int64 for one in got)
    regions = Regions.of(features, boxes)
    assert [regions.members(r).tolist() for r in range(len(regions))] == expected
    assert Regions.from_members(boxes, got) == regions


def test_boxes_are_half_open_in_pixel_edges() -> None:
    # A cell of an enlarged level is centred above pixel 0, yet inside of it.
    features = at([(-0.25, 0), (9, 0), (9.49, 0), (9.5, 0), (99.4, 79.4)])
    left, right = assign_to_regions(features, [[0, 0, 10, 80], [10, 0, 100, 80]])
    assert left.tolist() == [0, 1, 2]
    assert right.tolist() == [3, 4]


def test_every_feature_is_in_the_whole_image() -> None:
    features = random_features(np.random.default_rng(0), 300)
    grid = rigid_grid(features.image_size, whole=True)
    members = assign_to_regions(features, grid)
    assert np.array_equal(members[0], np.arange(300))
    assert np.array_equal(np.unique(np.concatenate(members[1:])), np.arange(300))


def test_no_features_or_no_boxes() -> None:
    assert assign_to_regions(at([(1, 1)]), []) == []
    (none,) = assign_to_regions(LocalFeatures.empty((9, 9)), [[0, 0, 9, 9]])
    assert none.dtype == np.int64
    assert len(none) == 0
    assert len(Regions.of(at([]), [])) == 0


def test_regions_are_frozen_copies() -> None:
    boxes = np.array([[0, 0, 9, 9], [2, 2, 4, 4]], np.float32)
    indices = np.array([0, 3, 1], np.int32)
    regions = Regions(boxes, np.array([0, 2, 3]), indices)
    boxes[:], indices[:] = 7, 7
    assert regions.boxes[1].tolist() == [2, 2, 4, 4]
    assert regions.members(0).tolist() == [0, 3]
    assert regions.members(1).tolist() == [1]
    assert repr(regions) == "Regions(2 regions, 3 members)"
    for array in (regions.boxes, regions.offsets, regions.indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(IndexError, match="no region 2"):
        regions.members(2)
    with pytest.raises(TypeError):
        hash(regions)
    assert regions != Regions(regions.boxes, np.array([0, 1, 3]), np.array([0, 1, 3]))
    assert regions != "regions"


@pytest.mark.parametrize(
    ("offsets", "indices", "message"),
    [
        ([0, 1], [0], "2 regions need 3 offsets"),
        ([1, 1, 1], [0], "ascend from 0"),
        ([0, 1, 2], [0], "ascend from 0"),
        ([0, 2, 1], [0], "ascend from 0"),
        ([0, 1, 2], [0, -1], "negative"),
        ([0, 2, 2], [1, 0], "each feature at most once"),
        ([0, 0, 2], [1, 1], "each feature at most once"),
        ([0, 1, 2], [0.5, 1], "whole numbers"),
        ([[0, 1, 2]], [0, 1], "one dimension"),
    ],
)
def test_wrong_regions(offsets: Any, indices: Any, message: str) -> None:
    boxes = np.array([[0, 0, 9, 9], [2, 2, 4, 4]], np.float32)
    with pytest.raises(FeatureError, match=message):
        Regions(boxes, np.array(offsets), np.array(indices))


# ------------------------------------------------------------------------------------------------------ files

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(content=st.dictionaries(names, boxes_of(4), max_size=4), scored=st.booleans(), seed=st.integers(0, 99))
@pytest.mark.parametrize("ending", ["jsonl", "csv", "CSV"])
def test_files_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, ending: str, content: dict[str, Any], scored: bool, seed: int
) -> None:
    path = tmp_path_factory.mktemp("boxes") / f"boxes.{ending}"
    rng = np.random.default_rng(seed)
    scores = {name: rng.uniform(size=len(boxes)) for name, boxes in content.items()}
    write_boxes(path, content, scores if scored else None)
    expected = {name: boxes for name, boxes in content.items() if len(boxes) or ending == "jsonl"}
    got = read_boxes(path)
    assert list(got) == list(expected)
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    assert all(boxes.dtype == np.float32 and boxes.shape[1] == 4 for boxes in got.values())
    if scored:
        best = read_boxes(path, min_score=0.5)
        assert list(best) == list(expected)
        assert all(np.array_equal(best[name], expected[name][scores[name] >= 0.5]) for name in expected)
    assert list(path.parent.iterdir()) == [path]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_files_of_other_programs(tmp_path: Path) -> None:
    lines = '\ufeff{"image": "a", "boxes": [[0, 0, 5, 5], [1, 1, 2, 2]], "scores": [0.9, 1e-3], "model": "x"}\n\n'
    path = written(tmp_path, "a.jsonl", lines + '{"image": "b", "boxes": []}\r\n')
    assert read_boxes(path)["a"].shape == (2, 4)
    assert read_boxes(path, min_score=0.5)["a"].tolist() == [[0, 0, 5, 5]]
    assert read_boxes(path)["b"].shape == (0, 4)
    table = "score, label ,image,y1,x1,y0,x0\r\n0.5,church,b,4,3,2,1\n,,a,1,1,0,0\n0.1,,b,9,9,8,8\n"
    path = written(tmp_path, "b.csv", table)
    assert {k: v.tolist() for k, v in read_boxes(path).items()} == {
        "b": [[1, 2, 3, 4], [8, 8, 9, 9]],
        "a": [[0, 0, 1, 1]],
    }
    assert read_boxes(written(tmp_path, "c.csv", "")) == {}
    assert read_boxes(written(tmp_path, "d.csv", "image,x0,y0,x1,y1\n")) == {}
    assert read_boxes(written(tmp_path, "e.jsonl", "")) == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: is not JSON.*expected \{\"image\""),
        ("[" * 100_000, r"line 2: is not JSON"),
        ("[]", r"line 2: expected \{\"image\""),
        ('{"image": 3, "boxes": []}', "line 2: expected"),
        ('{"image": "b"}', "line 2: expected"),
        ('{"image": "a", "boxes": []}', "line 2: image 'a' stands in line 1 too"),
        ('{"image": "b", "boxes": [[1, 2, 3]]}', "line 2: every box must be four numbers"),
        ('{"image": "b", "boxes": [[1, 2, 3, "4"]]}', "line 2: every box must be four numbers"),
        ('{"image": "b", "boxes": [[1, 2, 3, true]]}', "line 2: every box must be four numbers"),
        ('{"image": "b", "boxes": [5]}', "line 2: every box must be four numbers"),
        ('{"image": "b", "boxes": [[1, 2, NaN, 4]]}', "line 2: box 0 has NaN"),
        ('{"image": "b", "boxes": [[1, 2, 1' + "0" * 400 + ", 4]]}", "line 2: .*not x, y, width, height"),
        ('{"image": "b", "boxes": [[5, 5, 3, 4]]}', "line 2: box 0 is empty.*not x, y, width, height"),
        ('{"image": "b", "boxes": [[1, 2, 3, 4]], "scores": []}', "line 2: 1 boxes need as many finite scores"),
        ('{"image": "b", "boxes": [[1, 2, 3, 4]], "scores": [NaN]}', "line 2: 1 boxes need as many finite scores"),
        ('{"image": "b", "boxes": [[1, 2, 3, 4]], "scores": 0.5}', "line 2: 1 boxes need as many finite scores"),
    ],
)
def test_wrong_json_lines(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, "b.jsonl", '{"image": "a", "boxes": []}\n' + line)
    with pytest.raises(FormatError, match=rf"b\.jsonl, {message}"):
        read_boxes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,2,3,4\n", "line 1: expected the columns image,x0,y0,x1,y1,score, got a,1,2,3,4"),
        ("image,x0,y0,x1,y1,x0\n", "line 1: expected the columns"),
        ("image,x0,y0,x1,y1\na,1,2,3\n", "line 2: 4 columns instead of 5"),
        ("image,x0,y0,x1,y1\na,1,2,3,four\n", "line 2: y1 must be a number, got 'four'"),
        ("image,x0,y0,x1,y1\na,1,2,inf,4\n", "line 2: box 0 has NaN or inf"),
        ("image,x0,y0,x1,y1\na,10,10,5,5\n", "line 2: box 0 is empty"),
        ("image,x0,y0,x1,y1,score\na,1,2,3,4,nan\n", "line 2: 1 boxes need as many finite scores"),
        ('image,x0,y0,x1,y1\n"a,1,2,3,4\n', "line 2: "),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=rf"b\.csv, {message}"):
        read_boxes(written(tmp_path, "b.csv", text))


def test_a_limit_without_scores(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    write_boxes(path, {"a": [], "b": [[0, 0, 1, 1]]})
    with pytest.raises(FormatError, match=r"line 2: has no scores, so min_score"):
        read_boxes(path, min_score=0.5)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("a.txt", "a"):
        with pytest.raises(FormatError, match=r"must be \.jsonl or \.csv"):
            read_boxes(tmp_path / name)
        with pytest.raises(FormatError, match=r"must be \.jsonl or \.csv"):
            write_boxes(tmp_path / name, {})
    with pytest.raises(FormatError, match=r"gone\.csv: cannot be read"):
        read_boxes(tmp_path / "gone.csv")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(FormatError, match="UTF-8"):
        read_boxes(tmp_path / "latin.jsonl")
    with pytest.raises(FormatError, match="cannot be written"):
        write_boxes(tmp_path / "gone" / "a.csv", {})


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ({"a": [[0, 0, 0, 0]]}, None, "a: box 0 is empty"),
        ({"a": [[0, 0, 1, 1]]}, {"b": [1.0]}, "do not belong"),
        ({"a": [[0, 0, 1, 1]]}, {"a": [1.0, 2.0]}, "1 boxes need as many finite scores"),
        ({"a": [[0, 0, 1, 1]]}, {"a": [np.nan]}, "1 boxes need as many finite scores"),
        ({"\udc80": [[0, 0, 1, 1]]}, None, "no valid text"),
    ],
)
def test_boxes_that_cannot_be_written(tmp_path: Path, boxes: Any, scores: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_boxes(tmp_path / "b.jsonl", boxes, scores)
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    write_boxes(path, {"é.jpg": [[0, 0.5, 2, 3]]}, {"é.jpg": [0.25]})
    text = path.read_text(encoding="utf-8")
    assert "é.jpg" in text
    assert json.loads(text) == {"image": "é.jpg", "boxes": [[0, 0.5, 2, 3]], "scores": [0.25]}
