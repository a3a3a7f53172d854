"""The sheet of a shortlist before and after: frames, moves, limits; wrong lists are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, ImageError
from delf_engine.plotting import draw_reranking, figure_pixels
from delf_engine.plotting.moves import FALL, NEW, RISE, STAY, moves
from helpers import random_photo, write_image

GREEN, GREY, RED = (26, 127, 55), (175, 184, 193), (207, 34, 46)


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def has(figure: Any, colour: tuple[int, int, int]) -> bool:
    return bool((figure_pixels(figure) == colour).all(axis=2).any())


@pytest.fixture
def photos() -> dict[str, np.ndarray]:
    return {name: np.full((30, 40, 3), 128, np.uint8) for name in "abcdef"}


@given(st.permutations(list("abcdefg")), st.integers(0, 7), st.integers(0, 7))
def test_moves_are_differences_of_places(order: list[str], first: int, second: int) -> None:
    before, after = list("abcdefg")[:first], order[:second]
    found = moves(before, after)
    assert set(found) == set(before) | set(after)
    for image_id, move in found.items():
        assert move.before == (before.index(image_id) + 1 if image_id in before else None)
        assert move.after == (after.index(image_id) + 1 if image_id in after else None)
        if image_id in before and image_id in after:
            assert move.rise == before.index(image_id) - after.index(image_id)
        else:
            assert move.rise == 0
    if sorted(before) == sorted(after):
        assert sum(move.rise for move in found.values()) == 0


def test_moves_in_words() -> None:
    found = moves(list("abc"), list("cbd"))
    assert [str(found[x]) for x in "cbd"] == [f"{RISE} 2", STAY, NEW]
    assert str(moves(list("ab"), list("ba"))["a"]) == f"{FALL} 1"
    for wrong in ((list("aba"), []), ([], list("aba"))):
        with pytest.raises(DataError, match="'a' twice"):
            moves(*wrong)


def test_sheet_says_what_became_of_each(photos: dict[str, np.ndarray]) -> None:
    figure = draw_reranking(
        photos["a"],
        list("abcd"),
        list("cabe"),
        images=photos,
        inliers={"c": 40, "a": 1, "b": None},
        same={"c": True, "a": False},
        title="Moves",
    )
    said = texts(figure)
    for expected in (
        "40 inliers · ▲ 2",
        "1 inlier · ▼ 1",
        "not verified · ▼ 1",
        "not verified · new",
        "goes to 2",
        "goes to 1",
        "left out",
        "1. c",
        "before re-ranking: 4 of 4",
        "Moves",
    ):
        assert expected in said
    assert has(figure, GREEN)
    assert has(figure, GREY)
    assert not has(figure, RED)


def test_the_right_answer_gives_the_frames(photos: dict[str, np.ndarray]) -> None:
    options: dict[str, Any] = {"images": photos, "same": {"a": True, "b": True}}
    wrong = draw_reranking(photos["a"], ["a"], ["a"], truth={"a": False}, **options)
    assert has(wrong, RED)
    assert not has(wrong, GREEN)
    unknown = draw_reranking(photos["a"], ["a"], ["a"], truth={}, **options)
    assert has(unknown, GREY)
    assert not has(unknown, GREEN)
    right = draw_reranking(photos["a"], ["a"], ["a"], truth={"a": True}, **options)
    assert has(right, GREEN)


def test_limit_columns_and_moves_over_the_whole_lists(photos: dict[str, np.ndarray]) -> None:
    figure = draw_reranking(photos["a"], list("abcdef"), list("fedcba"), images=photos, limit=2, columns=1)
    said = texts(figure)
    assert "▲ 5" in said
    assert "goes to 6" in said
    assert "3. d" not in said
    assert "after re-ranking: 2 of 6" in said
    wide = draw_reranking(photos["a"], list("abcdef"), list("fedcba"), images=photos, columns=6)
    assert wide.bbox.width > 2 * figure.bbox.width
    assert wide.bbox.height < figure.bbox.height
    figure_pixels(draw_reranking(photos["a"], [], [], images=photos))


def test_ids_are_paths(rng: np.random.Generator, tmp_path: Path) -> None:
    paths = [str(write_image(tmp_path / "in a" / f"{i} $x_^.png", random_photo(rng))) for i in range(2)]
    said = texts(draw_reranking(paths[0], paths, paths[::-1]))
    assert "1. 1 $x_^.png" in said
    said = texts(draw_reranking(paths[0], ["x"], ["x"], images=lambda name: paths[0]))
    assert "1. x" in said


def test_wrong_input_is_refused(photos: dict[str, np.ndarray]) -> None:
    for wrong in ({"columns": 0}, {"limit": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            draw_reranking(photos["a"], ["a"], ["a"], images=photos, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no 'x'"):
        draw_reranking(photos["a"], ["x"], ["x"], images=photos)
    with pytest.raises(DataError, match="twice"):
        draw_reranking(photos["a"], ["a", "a"], ["a"], images=photos)
    with pytest.raises(ImageError, match=r"none\.jpg"):
        draw_reranking(photos["a"], ["none.jpg"], ["none.jpg"])
