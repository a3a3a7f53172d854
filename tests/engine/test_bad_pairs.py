"""Pairs that deceive the coarse features of the packaged checkpoint, and what is said of them."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import delf_engine as de
from delf_engine.extraction import Extractor
from helpers import random_photo

Pixels = npt.NDArray[np.uint8]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    return {"extractor": Extractor.from_pretrained("delf-r18"), "model": "delf-r18"}


@pytest.fixture(scope="module")
def photos() -> list[Pixels]:
    rng = np.random.default_rng(1)
    return [random_photo(rng, 480, 360) for _ in range(3)]


def subtitled(photo: Pixels) -> Pixels:
    out = photo.copy()
    for row, text in enumerate(("We have to go back to the house", "before they find out")):
        for colour, width in ((BLACK, 5), (WHITE, 2)):
            cv2.putText(out, text, (30, 300 + 34 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.8, colour, width)
    return out


def screenshot(photo: Pixels) -> Pixels:
    """A photograph in an application: a bar with a title above, buttons below."""
    height, width = photo.shape[:2]
    out = np.full((height + 160, width + 40, 3), 244, np.uint8)
    out[80 : 80 + height, 20 : 20 + width] = photo
    cv2.rectangle(out, (0, 0), (width + 40, 60), (40, 70, 160), -1)
    cv2.putText(out, "12:48   Photo viewer   5G", (16, 42), cv2.FONT_HERSHEY_SIMPLEX, 0.9, WHITE, 2)
    for button in range(5):
        cv2.rectangle(out, (20 + 95 * button, height + 100), (90 + 95 * button, height + 140), (60, 60, 60), 2)
        cv2.putText(out, "+-<>*"[button], (45 + 95 * button, height + 130), cv2.FONT_HERSHEY_SIMPLEX, 1, BLACK, 2)
    return out


@pytest.mark.parametrize("worn", [subtitled, screenshot])
def test_what_unrelated_photographs_wear_does_not_make_them_one_place(
    given: dict[str, Any], photos: list[Pixels], worn: Any
) -> None:
    for a, b in itertools.combinations(map(worn, photos), 2):
        assert de.verify(a, b, **given, turn=False).verdict != "same"


@pytest.mark.parametrize("worn", [subtitled, screenshot])
def test_one_photograph_is_the_same_whatever_it_wears(
    given: dict[str, Any], photos: list[Pixels], worn: Any
) -> None:
    bare, framed = photos[0], worn(photos[0])
    moved = (80, 20) if worn is screenshot else (0, 0)
    for a, b in ((framed, framed), (framed, bare), (bare, framed)):
        assert de.verify(a, b, **given).verdict == "same"
    found = de.verify(bare, framed, **given)
    np.testing.assert_allclose(found.transform, [[1, 0, moved[1]], [0, 1, moved[0]], [0, 0, 1]], atol=0.5)


def test_a_part_of_a_photograph_is_the_same_place(given: dict[str, Any], photos: list[Pixels]) -> None:
    part = cv2.resize(photos[1][60:300, 100:420], None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    found = de.verify(part.astype(np.uint8), photos[1], **given)
    assert found.verdict == "same"
    assert found.transform is not None
    np.testing.assert_allclose(found.transform @ [240, 180, 1], [260, 180, 1], atol=1)
    assert de.verify(part.astype(np.uint8), photos[2], **given, turn=False).verdict != "same"


def test_pictures_of_nothing_are_never_one_place(given: dict[str, Any], photos: list[Pixels]) -> None:
    rng = np.random.default_rng(2)
    across = np.linspace(0, 255, 480).astype(np.uint8)
    noise = [np.clip(rng.normal(128, 20, (360, 480, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    slope = np.repeat(np.tile(across, (360, 1))[..., None], 3, axis=2)
    flat = [np.full((360, 480, 3), grey, np.uint8) for grey in (0, 255)]
    for a, b in (
        flat,
        (flat[0], flat[0]),
        noise,
        (slope, np.ascontiguousarray(slope[:, ::-1])),
        (slope, noise[0]),
    ):
        assert de.verify(a, b, **given, turn=False).verdict != "same"
    for nothing in (*flat, noise[0], slope):
        assert de.verify(nothing, photos[0], **given, turn=False).verdict != "same"
