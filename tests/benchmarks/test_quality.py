"""Who is searched for among whom, when rankings by evidence are measured."""

from __future__ import annotations

import itertools

import numpy as np

from benchmarks.verification.evidence import Picture
from benchmarks.verification.sameness_sets import PairSet
from benchmarks.verification.searched_sets import truth_of


def pair_set(pictures: list[Picture], same: set[tuple[str, str]], unknown: set[tuple[str, str]]) -> PairSet:
    ids = [picture.id for picture in pictures]
    pairs = [pair for pair in itertools.combinations(ids, 2) if pair not in unknown]
    labels = np.array([pair in same for pair in pairs], bool)
    return PairSet("x", {picture.id: picture for picture in pictures}, pairs, labels, [("", "")] * len(pairs))


def named(names: tuple[str, ...], indices: np.ndarray) -> list[str]:
    return [names[i] for i in indices]


def test_every_picture_with_a_positive_is_searched_for_among_the_others() -> None:
    a, b, c, d = pictures = [Picture(f"places/{name}.jpg") for name in "abcd"]
    pairs = pair_set(pictures, {(a.id, b.id)}, {(a.id, c.id)})
    far = Picture("distractors/z.jpg")
    pairs.pictures[far.id] = far
    truth = truth_of(pairs)
    assert truth.query_names == (a.id, b.id)
    assert truth.names == (a.id, b.id, c.id, d.id, far.id)
    assert [named(truth.names, each) for each in truth.easy] == [[b.id], [a.id]]
    assert [named(truth.names, each) for each in truth.junk] == [[a.id, c.id], [b.id]]


def test_queries_of_holidays_and_cut_out_ones_are_not_in_the_gallery() -> None:
    first, other, alone = pictures = [Picture(f"holidays_dev/1000{n}.jpg") for n in ("00", "01", "02")]
    truth = truth_of(pair_set(pictures, {(first.id, other.id)}, set()))
    assert (truth.query_names, truth.names) == ((first.id,), (other.id, alone.id))
    cut, whole = Picture("paris/a.jpg", box=(0.0, 0.0, 9.0, 9.0)), Picture("paris/b.jpg")
    truth = truth_of(pair_set([cut, whole], {(cut.id, whole.id)}, set()))
    assert (truth.query_names, truth.names) == ((cut.id,), (whole.id,))
    assert [len(each) for each in truth.junk] == [0]
