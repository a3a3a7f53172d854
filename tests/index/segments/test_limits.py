"""Options that leave images out of a search, and many queries at once: always what a full ranking gives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.index.kdtree.index import KdTreeLayout
from delf_engine.index.segments.collection import Collection
from delf_engine.index.segments.limits import best
from delf_engine.index.segments.segment import IdTable, Segment
from helpers import raises, random_features
from index.kinds import IMAGES, NAMES, QUERY, VARIANTS, Kind


def filtered(
    full: tuple[list[str], np.ndarray],
    top_k: int,
    among: list[str] | None,
    exclude: list[str],
    min_score: float | None,
) -> tuple[list[str], list[float]]:
    """What is left of a full ranking, one image at a time."""
    left = [
        (name, score)
        for name, score in zip(full[0], full[1].tolist(), strict=True)
        if (among is None or name in among) and name not in exclude and (min_score is None or score >= min_score)
    ]
    return [name for name, _ in left[:top_k]], [score for _, score in left[:top_k]]


def in_pieces(kind: Kind, folder: Path) -> Any:
    """An index with segments in memory and on disk, removed and waiting images, equal ones and an empty one."""
    index = kind.new()
    index.add(["gone", *NAMES[:3]], [QUERY, *(IMAGES[n] for n in NAMES[:3])])
    index.save(folder)
    index = kind.load(folder)
    index.add(["same 1", "removed"], [IMAGES[NAMES[4]], QUERY])
    index.search(QUERY, 1)
    index.remove(["gone", "removed"])
    index.add([*NAMES[3:], "same 2"], [*(IMAGES[n] for n in NAMES[3:]), IMAGES[NAMES[4]]])
    return index


EVERY = [*NAMES, "same 1", "same 2"]


@given(
    name=st.sampled_from(VARIANTS),
    among=st.none() | st.lists(st.sampled_from(EVERY), max_size=12),
    exclude=st.lists(st.sampled_from([*EVERY, "nobody", "gone"]), max_size=12),
    min_score=st.none() | st.sampled_from([-1e300, -1.0, 0.0, 1e300, 5e-324]) | st.integers(0, 9),
    top_k=st.sampled_from([1, 2, 5, 99]),
)
@settings(max_examples=60)
def test_a_limited_search_is_a_filtered_full_one(
    name: str, among: list[str] | None, exclude: list[str], min_score: float | None, top_k: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = in_pieces(Kind(name), Path(folder))
        full = index.search(QUERY, 99)
        if isinstance(min_score, int):  # the score of a hit: it and its equals stay
            min_score = full[1].tolist()[min_score % len(full[0])]
        ids, scores = index.search(QUERY, top_k, among=among, exclude=exclude, min_score=min_score)
        assert (ids, scores.tolist()) == filtered(full, top_k, among, exclude, min_score)
        assert scores.dtype == np.float32
        many = index.search_many([QUERY], top_k, among=among, exclude=exclude, min_score=min_score)
        assert [(ids, scores.tolist()) for ids, scores in many] == [(ids, scores.tolist())]


def test_ids_that_are_not_there(kind: Kind, tmp_path: Path) -> None:
    index = in_pieces(kind, tmp_path)
    for gone in ("nobody", "gone", "removed"):
        with raises(UnknownIdError, "among", repr(gone)):
            index.search(QUERY, 5, among=[NAMES[0], gone])
        with pytest.raises(UnknownIdError):
            index.search_many([], 5, among=[gone])
    with raises(UnknownIdError, "'a'", "1"):
        index.search(QUERY, 5, among=["a", "b"])
    assert index.search(QUERY, 99, exclude=["nobody"])[0] == index.search(QUERY, 99)[0]
    assert index.search(QUERY, 99, among=[])[0] == []
    with pytest.raises(UnknownIdError):
        kind.new().search(QUERY, 5, among=["a"])
    assert kind.new().search(QUERY, 5, among=[], exclude=["a"], min_score=0.1)[0] == []


@pytest.mark.parametrize("threads", [1, 2, 7, None])
def test_many_queries_in_threads(
    kind: Kind, tmp_path: Path, rng: np.random.Generator, threads: int | None
) -> None:
    index = in_pieces(kind, tmp_path)
    queries = [random_features(rng, n, 8) for n in (0, 1, 30, 30, 200)] * 30
    queries += [queries[3], LocalFeatures.empty((5, 5), 8), QUERY]
    limits: dict[str, Any] = {"among": NAMES, "exclude": NAMES[:1]}
    found = index.search_many(iter(queries), 6, **limits, threads=threads)
    for query, (ids, scores) in zip(queries, found, strict=True):
        wanted_ids, wanted = index.search(query, 6, **limits)
        assert ids == wanted_ids
        np.testing.assert_array_equal(scores, wanted)


@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 1e-45, 0.5, 0.1, 2.0, 3e38]), max_size=30),
    seed=st.integers(0, 99),
    top_k=st.integers(1, 31),
    min_score=st.none() | st.sampled_from([0.1, 0.5, 2.0, 1e300]),
)
def test_best_is_a_filtered_sort(scores: list[float], seed: int, top_k: int, min_score: float | None) -> None:
    values = np.array(scores, np.float32)
    allowed = np.random.default_rng(seed).random(len(values)) < 0.6
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    wanted = [
        i for i in order if values[i] > 0 and allowed[i] and (not min_score or float(values[i]) >= min_score)
    ]
    assert best(values, top_k, allowed=allowed, min_score=min_score).tolist() == wanted[:top_k]


def test_id_table() -> None:
    ids = ["a", "é" * 3000, "\udce9.jpg", "b", "日本"]
    asked = ["b", "nobody", "a", "b", *ids]
    arrays = IdTable.build(ids)
    clash = {"id_hashes": np.repeat(IdTable.hashes(["b"]), 5), "id_rows": np.arange(5, dtype=np.int32)}
    for table, held in (
        (IdTable(arrays), dict(zip(ids, range(5), strict=True))),
        (IdTable({**arrays, **clash}), {"b": 3}),
        (IdTable(IdTable.build([])), {}),
    ):
        rows = [held.get(image_id, -1) for image_id in asked]
        assert [table.find(image_id) for image_id in asked] == [None if row < 0 else row for row in rows]
        assert table.find_many(asked, IdTable.hashes(asked)).tolist() == rows
        assert table.find_many([], IdTable.hashes([])).tolist() == []
    assert list(IdTable(arrays)) == ids


@given(st.lists(st.lists(st.text(st.characters(), min_size=1), max_size=5), max_size=4), st.randoms())
def test_names_of_many_rows_are_those_of_each(parts: list[list[str]], random: Random) -> None:
    """Through all segments, empty ones too; ids hold anything that a file name may, lone surrogates as well."""
    flat = [f"{text}{i}" for i, text in enumerate(text for part in parts for text in part)]
    names = iter(flat)
    collection = Collection("kdtree", KdTreeLayout(2))
    for part in parts:
        arrays = {**IdTable.build([next(names) for _ in part]), "descriptors": np.empty((0, 2), np.float32)}
        collection.segments.append(Segment(arrays))
    rows = random.choices(range(len(flat)), k=2 * len(flat)) if flat else []
    assert collection.names_of(np.array(rows, np.int64)) == [flat[row] for row in rows]
    if len(parts) == 1:
        table = collection.segments[0].ids
        assert table.many(np.arange(len(table))) == list(table)


@pytest.mark.parametrize("top_k", [1, 10, 1000, 200_000, 2**61, 2**63 - 1, 2**70])
def test_the_best_of_many(top_k: int) -> None:
    scores = np.random.default_rng(0).integers(-5, 5000, 150_000).astype(np.float32)
    allowed = np.random.default_rng(1).random(len(scores)) < 0.5
    for mask, lowest in ((None, None), (allowed, None), (allowed, 4000.0)):
        there = (scores > 0) if mask is None else (scores > 0) & mask
        rows = np.flatnonzero(there & (scores >= (lowest or 0)))
        wanted = rows[np.argsort(-scores[rows], kind="stable")][:top_k]
        np.testing.assert_array_equal(best(scores, top_k, allowed=mask, min_score=lowest), wanted)
