"""The measuring side of "the same place": rules of the sets of pairs, overlays, shares accepted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification.acceptance import Scored, accepted, difference
from benchmarks.verification.evidence import Picture, made
from benchmarks.verification.overlays import OVERLAYS
from benchmarks.verification.sameness_sets import Judged, PairSet, across, linked, part_of, thumbnails, wearing
from delf_engine.verification.fine import FineEvidence
from verification.answers import answer


@pytest.mark.parametrize("kind", OVERLAYS)
def test_an_overlay_is_the_same_on_every_photograph_of_a_shape(kind: str) -> None:
    one, other = (np.full((120, 160, 3), grey, np.uint8) for grey in (60, 190))
    worn = [OVERLAYS[kind](pixels) for pixels in (one, other)]
    assert worn[0].shape == worn[1].shape
    assert worn[0].dtype == np.uint8
    assert not np.array_equal(worn[0], one)
    if kind != "watermark":  # half transparent
        assert (worn[0] == worn[1]).all(axis=2).mean() > 0.005
    assert (np.abs(worn[0].astype(int) - worn[1]) > 100).mean() > 0.3
    assert (one == 60).all()  # left as it was


def test_a_picture_is_shrunk_then_turned_then_framed(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (400, 200), (9, 99, 199)).save(tmp_path / "photo.png")
    photo = Picture("photo.png")
    assert photo.source(tmp_path) == tmp_path / "photo.png"
    assert np.shape(replace(photo, longest=100).source(tmp_path)) == (50, 100, 3)
    assert np.shape(replace(photo, longest=100, turns=1).source(tmp_path)) == (100, 50, 3)
    assert np.shape(replace(photo, turns=1, overlay="letterbox").source(tmp_path)) == (600, 200, 3)
    changed = [photo, replace(photo, longest=9), replace(photo, turns=2), replace(photo, box=(0.0, 0.0, 1.0, 1.0))]
    assert len({picture.id for picture in changed}) == len(changed)


def test_pictures_of_nothing() -> None:
    assert np.ptp(made("made/blank 51")) == 0
    assert np.ptp(made("made/gradient 1")) == 255
    assert made("made/noise 2").std() == pytest.approx(55, abs=5)  # 60, cut off at 0 and 255
    assert np.array_equal(made("made/noise 2"), made("made/noise 2"))


def test_folders_are_dealt_for_good_and_about_as_said() -> None:
    parts = [part_of(f"folder {i}") for i in range(2000)]
    assert parts.count("fit") / 2000 == pytest.approx(0.7, abs=0.03)
    assert parts.count("held out") / 2000 == pytest.approx(0.15, abs=0.03)
    assert part_of("taj_mahal") == part_of("taj_mahal")


def test_pairs_are_linked_by_fine_evidence_and_through_one_common_neighbour() -> None:
    pairs = list(itertools.combinations("abcdef", 2))
    sure = {
        ("a", "b"): answer(5, fine=FineEvidence(60, 25, 0)),
        ("b", "c"): answer(5, fine=FineEvidence(60, 0, 15)),
        ("c", "d"): answer(60, fine=FineEvidence(60, 18, 0)),
        ("d", "e"): answer(59, fine=FineEvidence(60, 24, 14)),  # a little of both is not enough
        ("e", "f"): answer(900, fine=FineEvidence(60, 17, 7)),  # a look-alike
    }
    nothing = answer(5, fine=FineEvidence(60, 12, 5))
    found = [sure.get(pair, nothing) for pair in pairs]
    direct, joined = (["".join(pairs[i]) for i in np.flatnonzero(rows)] for rows in linked(pairs, found))
    assert direct == ["ab", "bc", "cd"]
    assert sorted(joined) == ["ab", "ac", "bc", "bd", "cd"]
    # Both wear the mark of an agency: what agrees may be no more than that.
    direct, _ = linked(pairs, found, marked={"a", "b", "d"})
    assert ["".join(pairs[i]) for i in np.flatnonzero(direct)] == ["bc", "cd"]


def test_folders_that_show_one_place_are_told_from_marks() -> None:
    pairs = [("p/1", "q/1"), ("p/2", "r/1"), ("q/2", "r/2")]
    found = [FineEvidence(200, 60, 0), FineEvidence(99, 59, 39), FineEvidence(99, 24, 14)]
    places = [(a[0], b[0]) for a, b in pairs]
    between = Judged([answer(9, fine=f) for f in found], np.zeros(3, bool), np.ones(3), places, pairs)
    assert across(between) == ({("p", "q")}, {"p/2", "r/1"})


def test_changed_pairs_keep_their_labels_and_places() -> None:
    pictures = [Picture(name) for name in "abc"]
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    places = [("p", "p"), ("p", "q"), ("p", "q")]
    whole = PairSet("set", {p.id: p for p in pictures}, pairs, np.array([True, False, False]), places)
    small = thumbnails(whole, [0, 2])
    assert small.labels.tolist() == [True, False]
    assert small.places == [places[0], places[2]]
    assert [[small.pictures[name].longest for name in pair] for pair in small.pairs] == [[100, None]] * 2
    worn = wearing(whole, [0, 1, 2], ["letterbox", "watermark"])
    kinds = [{worn.pictures[name].overlay for name in pair} for pair in worn.pairs]
    assert kinds == [{"letterbox"}, {"watermark"}, {"letterbox"}]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 3)), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.2, 0.5]),
)
def test_a_pair_that_stands_for_several_counts_as_if_it_were_several(
    rows: list[tuple[int, bool, int]], rate: float
) -> None:
    rows += [(5, True, 1), (4, False, 1)]
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    places = [("p", "p")] * len(rows)
    found = accepted(Scored(scores * 1.0, labels, weights * 1.0, places), rate)
    right, wrong = (np.repeat(scores, weights)[np.repeat(labels, weights) == label] for label in (True, False))
    limits = [limit for limit in range(-1, 10) if (wrong > limit).sum() <= rate * len(wrong) + 1e-9]
    assert found == pytest.approx((right > min(limits)).mean())


def test_better_scores_accept_more_in_every_resample(rng: np.random.Generator) -> None:
    places = [(f"p{i}", f"p{j}") for i, j in itertools.product(range(8), repeat=2) for _ in range(3)]
    labels = np.array([a == b for a, b in places])
    ones = np.ones(len(labels))
    good = Scored(labels + rng.uniform(0, 0.5, len(labels)), labels, ones, places)
    bad = Scored(rng.uniform(0, 1, len(labels)), labels, ones, places)
    drawn = difference(good, bad, 0.01, samples=50)
    assert len(drawn) > 40
    assert (drawn > 0).all()
    assert difference(good, good, 0.01, samples=20) == pytest.approx(0)
