"""Who is searched for among whom, and how systems are compared on it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.revisited.quality import compared, measured, tables
from benchmarks.verification.evidence import Picture
from benchmarks.verification.sameness_sets import PairSet
from benchmarks.verification.searched_sets import SearchedSet, truth_of
from delf_engine import Verification, load_profile
from verification.answers import answer


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


def test_every_score_ranks_and_is_compared_with_the_first_system() -> None:
    a, b, _ = pictures = [Picture(f"places/{name}.jpg") for name in "abc"]
    searched = SearchedSet("x", truth_of(pair_set(pictures, {(a.id, b.id)}, set())), {p.id: p for p in pictures})

    def evidence(right: Verification) -> Any:
        def verified(_: str, pairs: list[tuple[str, str]]) -> list[Verification]:
            return [right if set(pair) == {a.id, b.id} else replace(answer(20), similarity=20.0) for pair in pairs]

        system = SimpleNamespace(codebook=None, profile=load_profile("default"))
        return SimpleNamespace(system=system, pictures={}, verified=verified)

    results: list[Any] = []
    for inliers, similarity in ((30, 9.0), (10, 90.0)):
        right = replace(answer(inliers), similarity=similarity)
        rows = measured(evidence(right), searched, 1)
        results.append({"system": "s", "accepted": {}, **compared(rows, results)})
    first, second = (result["rows"][0] for result in results)
    assert (first["set"], first["queries"], first["images"], first["verified"]) == ("x", 2, 3, "all")
    assert (first["map"]["inliers"], first["map"]["similarity"]) == (100, 25)
    assert (second["map"]["inliers"], second["map"]["similarity"]) == (25, 100)
    assert second["difference"]["similarity"]["difference"] == pytest.approx(75)
    _, columns, cells = tables(results)[0]
    assert len(cells) == 2
    assert [len(row) for row in cells] == [len(columns)] * 2
    assert cells[0][columns.index("candidates")] == ""  # of systems without a codebook
