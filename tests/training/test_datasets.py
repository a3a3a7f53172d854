"""Labelled data sets: what is listed, chosen, held out and drawn, and what is refused."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import DataError, DelfEngineWarning, FormatError
from delf_engine.training.labelled import LabelledImages, draw_balanced, hold_out, select_classes
from delf_engine.training.layouts import open_labelled, read_class_folders, read_landmarks
from helpers import raises, write_image

PIXELS = np.zeros((2, 2, 3), np.uint8)


def _grouped(*sizes: int) -> LabelledImages:
    files = [f"{c}/{i}.jpg" for c, size in enumerate(sizes) for i in range(size)]
    return LabelledImages.group("root", files, [file.split("/")[0] for file in files])


def _by_class(data: LabelledImages) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {name: set() for name in data.classes}
    for path, name in zip(data.paths(), np.repeat(data.classes, data.sizes), strict=True):
        out[name].add(Path(path).relative_to(data.root).as_posix())
    return out


def test_class_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "b/deep/1.jpg", "b/.hidden.png", ".git/x.png"):
        write_image(tmp_path / name, PIXELS)
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    data = open_labelled(tmp_path)
    assert data.classes == ("a", "b")
    assert _by_class(data) == {"a": {"a/1.png"}, "b": {"b/2.png", "b/deep/1.jpg"}}
    assert data.sizes.tolist() == [1, 2]
    assert all(Path(path).is_file() for path in data.paths())


def test_names_that_are_not_ascii_or_not_utf8_come_back(tmp_path: Path) -> None:
    write_image(tmp_path / "Église" / "é 1.png", PIXELS)
    (tmp_path / "a").mkdir()
    odd = tmp_path / "a" / b"\xff.png".decode("utf-8", "surrogateescape")
    odd.write_bytes((tmp_path / "Église" / "é 1.png").read_bytes())
    data = read_class_folders(tmp_path)
    assert data.classes == ("a", "Église")
    assert data.paths() == [str(odd), str(tmp_path / "Église" / "é 1.png")]


def test_empty_classes_and_photographs_without_class_are_left_out_aloud(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", PIXELS)
    (tmp_path / "nothing").mkdir()
    with pytest.warns(DelfEngineWarning, match="1 class folders without a photograph left out: nothing"):
        assert read_class_folders(tmp_path).classes == ("a",)
    (tmp_path / "nothing").rmdir()
    write_image(tmp_path / "cover.JPG", PIXELS, format="JPEG")
    with pytest.warns(DelfEngineWarning, match=r"1 photographs beside the classes left out: cover\.JPG"):
        assert len(read_class_folders(tmp_path)) == 1


def test_folders_that_cannot_work(tmp_path: Path) -> None:
    with raises(DataError, "none"):
        read_class_folders(tmp_path / "none")
    with raises(DataError):
        read_class_folders(tmp_path)
    write_image(tmp_path / "1.png", PIXELS)
    with raises(DataError, "1 photographs"):
        read_class_folders(tmp_path)
    (tmp_path / "a").mkdir()
    with raises(DataError, "(a)"):
        read_class_folders(tmp_path)


def _landmarks(folder: Path, below: str = "train") -> list[str]:
    ids = ["a1b2", "a1b3", "0f-_", "fffe"]
    for image_id in ids:
        write_image(folder / below / "/".join(image_id[:3]) / f"{image_id}.jpg", PIXELS)
    return ids


def _write(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize("below", ["train", ""])
def test_both_lists_in_both_places_give_the_same(tmp_path: Path, below: str) -> None:
    a, b, c, d = _landmarks(tmp_path, below)
    full = _write(
        tmp_path / "train.csv",
        ("id", "url", "landmark_id"),
        *((i, "http://x/y", label) for i, label in ((a, "7"), (b, "12"), (c, "7"), (d, "12"))),
    )
    data = open_labelled(tmp_path)
    assert {name: {Path(f).stem for f in files} for name, files in _by_class(data).items()} == {
        "7": {a, c},
        "12": {b, d},
    }
    assert all(Path(path).is_file() for path in data.paths())
    _write(tmp_path / "train_clean.csv", ("landmark_id", "images"), ("7", f"{c} {a}"), ("12", f"{b} {d}"))
    clean = open_labelled(tmp_path)
    assert clean.paths() == data.paths()
    assert clean.classes == data.classes
    # The clean list is preferred; another can be named.
    _write(tmp_path / "train_clean.csv", ("landmark_id", "images"), ("1", f"{a} {b}"))
    assert len(open_labelled(tmp_path)) == 2
    assert len(open_labelled(full)) == 4


def test_the_folder_of_photographs_is_not_taken_for_classes(tmp_path: Path) -> None:
    a, b, *_ = _landmarks(tmp_path)
    assert open_labelled(tmp_path / "train").classes == ("0", "a", "f")  # class folders, for all one can know
    _write(tmp_path / "train.csv", ("id", "landmark_id"), (a, "1"), (b, "1"))
    with raises(DataError):
        open_labelled(tmp_path / "train")


def test_a_landmark_of_very_many_ids(tmp_path: Path) -> None:
    (tmp_path / "train" / "a" / "a" / "a").mkdir(parents=True)
    ids = [f"aaa{i:013x}" for i in range(9000)]  # more than the csv module's own limit of a field
    for image_id in ids[:3]:
        (tmp_path / "train/a/a/a" / f"{image_id}.jpg").touch()
    before = csv.field_size_limit()
    _write(tmp_path / "train_clean.csv", ("landmark_id", "images"), ("1", " ".join(ids)))
    with pytest.warns(DelfEngineWarning, match="8997 of 9000 photographs are not there"):
        assert len(read_landmarks(tmp_path, missing="drop")) == 3
    assert csv.field_size_limit() == before


def test_missing_photographs_are_counted_and_some_named(tmp_path: Path) -> None:
    a, b, *_ = _landmarks(tmp_path)
    _write(tmp_path / "train_clean.csv", ("landmark_id", "images"), ("1", f"{a} {b} abc1 abc2 abc3 abc4"))
    with raises(DataError, "abc1", "abc2", "abc3", "abc1.jpg"):
        read_landmarks(tmp_path)
    with pytest.warns(DelfEngineWarning, match="4 of 6 photographs are not there and left out"):
        assert {Path(path).stem for path in read_landmarks(tmp_path, missing="drop").paths()} == {a, b}
    _write(tmp_path / "train_clean.csv", ("landmark_id", "images"), ("1", "abc1"))
    with raises(DataError, "a/b/c/abc1.jpg"):
        read_landmarks(tmp_path, missing="drop")


@pytest.mark.parametrize(
    ("text", "error", "fact"),
    [
        (b"", FormatError, "empty"),
        (b"id,url\na1b2,x\n", FormatError, "id,url,landmark_id"),
        (b"id,url,landmark_id\n", DataError, "train.csv"),
        (b"id,url,landmark_id\na1b2,x\n", FormatError, "train.csv, line 2"),
        (b"id,url,landmark_id\na1b2,x,1\n../../etc,x,1\n", FormatError, "line 3: '../../etc'"),
        (b"id,url,landmark_id\na1,x,1\n", FormatError, "'a1'"),
        (b"id,url,landmark_id\na1b2,x,1\na1b2,x,2\na1b3,x,1\n", DataError, "a1b2"),
        (b'id,url,landmark_id\n"a1b2,x,1\n', FormatError, "CSV"),
        (b"id,landmark_id\n\xff\xfe,1\n", FormatError, "UTF-8"),
    ],
)
def test_bad_lists(tmp_path: Path, text: bytes, error: type[Exception], fact: str) -> None:
    _landmarks(tmp_path)
    with raises(FormatError, "train.csv"):
        open_labelled(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_bytes(text)
    with raises(error, fact):
        open_labelled(tmp_path)
    with raises(DataError, "train_clean.csv", "train.csv"):
        read_landmarks(tmp_path.parent / "nowhere")


def test_select_classes() -> None:
    data = _grouped(5, 1, 2, 40)
    chosen = select_classes(data, min_images=2, max_images=3, seed=1)
    assert chosen.classes == ("0", "2", "3")
    assert chosen.sizes.tolist() == [3, 2, 3]
    before, after = _by_class(data), _by_class(chosen)
    assert all(after[name] <= before[name] for name in after)
    again, other = (select_classes(data, min_images=2, max_images=3, seed=s) for s in (1, 2))
    assert again.paths() == chosen.paths() != other.paths()
    # A class is drawn alike whatever other classes there are.
    alone = select_classes(_grouped(2, 0, 0, 40), max_images=3, seed=1)
    assert _by_class(alone)["3"] == after["3"]


def test_classes_that_cannot_work() -> None:
    for sizes, options, fact in (
        ((4,), {}, "1"),
        ((4, 4), {"min_images": 9}, "min_images"),
        ((3, 1, 1, 1, 1), {}, "min_images"),
        ((3, 3), {"max_images": 1}, "max_images"),
    ):
        with raises(DataError, fact):
            select_classes(_grouped(*sizes), **options)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(2, 12), st.integers(0, 5))
def test_hold_out(sizes: list[int], every: int, seed: int) -> None:
    data = _grouped(*sizes)
    held_in, held_out = hold_out(data, every=every, seed=seed)
    assert held_in.classes == held_out.classes == data.classes
    assert sorted(held_in.paths() + held_out.paths()) == sorted(data.paths())
    for n, size_in, size_out in zip(data.sizes, held_in.sizes, held_out.sizes, strict=True):
        assert size_out == min(max(n // every, 1), n - 1)
        assert size_in >= 1
    again = hold_out(data, every=every, seed=seed)[1]
    assert again.paths() == held_out.paths()
    # An empty class stays empty, whatever is taken of the others.
    assert np.array_equal(held_out.take(np.full(len(held_out), True), keep_classes=True).sizes, held_out.sizes)


def test_drawing_is_balanced() -> None:
    data = _grouped(1, 100, 9)
    drawn = draw_balanced(data, 6000, np.random.default_rng(0))
    counts = Counter(np.repeat(range(3), data.sizes)[drawn].tolist())
    assert all(abs(counts[c] - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for c in range(3))  # five standard deviations
    assert set(drawn.tolist()) == set(range(110))
