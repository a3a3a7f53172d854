"""Overlays: matches of what two images wear alike do not count, those of two copies of one photograph do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.features import LocalFeatures
from delf_engine.verification import fine_evidence, verify_features
from delf_engine.verification.overlays import frame_matches, overlay_matches
from helpers import random_features

SIZE = (800, 600)
Int32 = npt.NDArray[np.int32]


def dressed(seed: int, *, worn: int, size: tuple[int, int] = SIZE, dim: int = 40) -> LocalFeatures:
    """300 features of a photograph, and `worn` ones of a caption in its upper tenth, the same for every seed."""
    own = random_features(np.random.default_rng(seed), 300, image_size=size, dim=dim)
    caption = random_features(np.random.default_rng(99), worn, image_size=size, dim=dim)
    places = own.keypoints.copy()
    places[:, 1] = places[:, 1] * 0.85 + 0.15 * size[1]
    band = caption.keypoints * np.float32([1, 0.1])
    scores = np.sort(np.r_[own.scores, caption.scores])[::-1]
    return LocalFeatures(
        np.r_[band, places],
        np.r_[caption.scales, own.scales],
        scores,
        np.r_[caption.descriptors, own.descriptors],
        size,
    )


def shifted(features: LocalFeatures, by: tuple[float, float], rows: slice) -> LocalFeatures:
    places = features.keypoints.copy()
    places[rows] += np.float32(by)
    return replace(features, keypoints=places)


@pytest.mark.parametrize("worn", [20, 80])
@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_what_both_wear_does_not_count(seeds: tuple[int, int], worn: int) -> None:
    a, b = (dressed(seed, worn=worn) for seed in seeds)
    found = verify_features(a, b)
    assert found.overlay >= worn * 0.9
    assert found.inliers < 12
    assert verify_features(b, a).inliers == found.inliers


@pytest.mark.parametrize("worn", [0, 20, 80])
def test_copies_are_still_the_same(worn: int) -> None:
    a = dressed(0, worn=worn)
    found = verify_features(a, a)
    assert (found.overlay, found.inliers) == (0, 300 + worn)


@pytest.mark.parametrize("by", [(60.0, 0.0), (0.0, 50.0), (-90.0, 40.0)])
def test_a_true_pair_under_one_caption_is_found_beside_it(by: tuple[float, float]) -> None:
    a = dressed(0, worn=60)
    rows = slice(60, 360)
    b = shifted(a, by, rows)
    found = verify_features(a, b)  # the caption alone, or both, agree with the identity
    assert found.transform is not None
    moved = a.keypoints[rows].mean(axis=0) @ found.transform[:2, :2].T + found.transform[:2, 2]
    np.testing.assert_allclose(moved - a.keypoints[rows].mean(axis=0), by, atol=12)
    assert found.inliers >= 290


def test_fine_matches_of_an_overlay_do_not_count_either() -> None:
    a, b = (dressed(seed, worn=80, dim=128) for seed in (0, 1))
    found = fine_evidence(a, b)
    assert found.overlay >= 70
    assert max(found.planar, found.epipolar) < 16
    copies = fine_evidence(a, a)
    assert (copies.overlay, copies.planar, copies.epipolar) == (0, 380, 380)


def test_an_overlay_on_photographs_of_another_shape() -> None:
    for size in ((800, 600), (400, 300), (600, 800)):
        a, b = dressed(0, worn=60), dressed(1, worn=60, size=size)
        rows = np.arange(60, dtype=np.int32)
        pairs: Int32 = np.c_[rows, rows]
        band = overlay_matches(a, b, pairs, np.ones(60, bool))
        assert band is not None
        assert band.sum() >= 40


@given(seed=st.integers(0, 100), matches=st.integers(0, 60))
def test_matches_that_move_are_no_overlay(seed: int, matches: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = dressed(0, worn=20), dressed(1, worn=20)
    pairs = np.c_[rng.integers(0, 320, matches), rng.integers(0, 320, matches)].astype(np.int32)
    moved = np.abs(a.keypoints[pairs[:, 0]] - b.keypoints[pairs[:, 1]]).max(axis=1) > 120
    assert overlay_matches(a, b, pairs[moved], np.ones(int(moved.sum()), bool)) is None
    assert overlay_matches(a, b, pairs, np.zeros(matches, bool)) is None


def marked(seed: int, *, marks: int = 30, dim: int = 128) -> LocalFeatures:
    """2,000 features of a photograph, and those of a watermark all over it, the same for every seed."""
    own = random_features(np.random.default_rng(seed), 2000, image_size=SIZE, dim=dim)
    worn = random_features(np.random.default_rng(99), marks, image_size=SIZE, dim=dim)
    scores = np.sort(np.r_[own.scores, worn.scores])[::-1]
    columns = ((f.keypoints, f.scales, f.descriptors) for f in (worn, own))
    keypoints, scales, descriptors = (np.concatenate(both) for both in zip(*columns, strict=True))
    return LocalFeatures(keypoints, scales, scores, descriptors, SIZE)


def test_marks_all_over_do_not_count() -> None:
    a, b = marked(0), marked(1)
    found = fine_evidence(a, b)
    assert found.overlay >= 25
    assert found.details == 0
    copies = fine_evidence(a, a)
    assert (copies.overlay, copies.planar) == (0, 2030)
    moved = replace(b, keypoints=b.keypoints + np.float32([40, 25]))  # too far for a mark: a small thing both show
    assert fine_evidence(a, moved).planar >= 25


def framed(seed: int, *, slid: float = 0, ornaments: int = 60, own: int = 600) -> LocalFeatures:
    """Features of a photograph, and ornaments along its left and right edges, slid down by some pixels."""
    inside = random_features(np.random.default_rng(seed), own, image_size=SIZE, dim=128)
    worn = random_features(np.random.default_rng(98), ornaments, image_size=SIZE, dim=128)
    rng = np.random.default_rng(97)
    across = np.where(rng.random(ornaments) < 0.5, 0, 0.93) * SIZE[0] + rng.uniform(5, 45, ornaments)
    columns = np.c_[across, rng.uniform(20, 500, ornaments) + slid].astype(np.float32)
    picture = (inside.keypoints * 0.8 + np.float32(SIZE) * 0.1).astype(np.float32)
    return LocalFeatures(
        np.r_[columns, picture],
        np.r_[worn.scales, inside.scales],
        np.sort(np.r_[worn.scores, inside.scores])[::-1],
        np.r_[worn.descriptors, inside.descriptors],
        SIZE,
    )


@pytest.mark.parametrize("slid", [0, 60])
def test_ornaments_of_a_frame_do_not_count_though_they_slide_along_it(slid: float) -> None:
    a, b = framed(0), framed(1, slid=slid)
    found = fine_evidence(a, b)
    assert found.overlay >= 50
    assert found.details == 0
    assert fine_evidence(b, a).overlay == found.overlay
    copies = fine_evidence(a, a)
    assert (copies.overlay, copies.planar) == (0, 660)
    same = fine_evidence(a, shifted(framed(0, slid=slid), (25, 15), slice(60, 660)))
    assert same.planar >= 590


def test_what_a_frame_leaves_over_must_agree_on_more_than_chance_has_it() -> None:
    a, b = framed(0), framed(1, slid=60)
    for agreeing, expected in ((10, 0), (40, 40)):
        rows = slice(60, 60 + agreeing)
        places, descriptors = b.keypoints.copy(), b.descriptors.copy()
        places[rows], descriptors[rows] = a.keypoints[rows] + np.float32([25, 15]), a.descriptors[rows]
        found = fine_evidence(a, replace(b, keypoints=places, descriptors=descriptors))
        assert found.overlay >= 50
        assert found.details == pytest.approx(expected, abs=2)


def test_a_frame_needs_a_middle_that_disagrees() -> None:
    rows = np.arange(660, dtype=np.int32)
    pairs: Int32 = np.c_[rows, rows]
    skyline = framed(0, own=8), framed(1, own=8)  # nothing else is there to agree
    assert frame_matches(*skyline, pairs[:68], rows[:68] < 50) is None
    a, b = framed(0), framed(1)
    assert frame_matches(a, b, pairs, rows < 0) is None
    assert frame_matches(a, b, pairs[:0], rows[:0] < 0) is None
    assert frame_matches(a, b, pairs, rows >= 30) is None  # the middle agrees, too
    worn = frame_matches(a, b, pairs, rows < 60)
    assert worn is not None
    np.testing.assert_array_equal(worn[:60], True)
    assert worn.sum() < 80


def along(features: LocalFeatures, row: int) -> set[str]:
    x, y = ((features.keypoints[row] + 0.5) / np.float32(SIZE)).tolist()
    edges = {"left": x < 0.1, "right": x > 0.9, "upper": y < 0.1, "lower": y > 0.9}
    return {edge for edge, there in edges.items() if there}


@given(
    seed=st.integers(0, 100),
    matches=st.integers(0, 60),
    drawn=st.sampled_from([60, 80, 660]),
    share=st.floats(0, 1),
)
def test_a_frame_is_what_an_oracle_says(seed: int, matches: int, drawn: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = framed(0), framed(1)
    pairs, inliers = rng.integers(0, drawn, (matches, 2)).astype(np.int32), rng.random(matches) < share
    worn = [bool(along(a, i) & along(b, j)) for i, j in pairs.tolist()]
    found = sum(w and bool(agrees) for w, agrees in zip(worn, inliers, strict=True))
    inside = min(sum(not along(f, row) for row in range(len(f))) / len(f) for f in (a, b))
    expected = found * inside / (1 - inside)
    others = int(inliers.sum()) - found
    is_frame = found > 0 and found >= others and expected >= 8 and others <= expected / 2
    masked = frame_matches(a, b, pairs, inliers)
    assert (masked is None) != is_frame
    assert masked is None or masked.tolist() == worn
