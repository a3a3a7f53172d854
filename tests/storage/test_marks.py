"""Marks: what a store tells of what has happened since."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FormatError, LockedError, UnknownIdError
from delf_engine.storage import FeatureStore, StoreMark
from helpers import random_features

RNG = np.random.default_rng(0)
A, B = (random_features(RNG, n, 8, (n + 10, 30)) for n in (5, 20))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "store", dim=8, codec="float32") as opened:
        yield opened


def mark_of(store: FeatureStore) -> StoreMark:
    mark = store.mark()
    assert mark is not None
    return mark


def write_without_mark(path: Path) -> None:
    """What a version does that keeps no marks: any transaction."""
    with lmdb.open(str(path), max_dbs=4) as environment, environment.begin(write=True) as txn:
        txn.put(b"other", b"1", db=environment.open_db(b"meta", txn=txn))


def test_a_mark_is_of_one_state(store: FeatureStore) -> None:
    marks = [mark_of(store)]
    for change in (
        lambda: store.put("a", A),
        lambda: store.put("a", B, replace=True),
        lambda: store.put_many([("a", A)], replace="last"),
        lambda: store.remove(["a"]),
    ):
        change()
        marks.append(mark_of(store))
    assert len({mark.token for mark in marks}) == len({mark.commit for mark in marks}) == 5
    store.put("b", B)
    before = mark_of(store)
    assert store.put_many([("b", A)]) == store.put_many([]) == []
    store.remove([])
    with pytest.raises(UnknownIdError):
        store.remove(["b", "nobody"])
    assert store.mark() == store.mark(make=True) == before
    store.close()
    for readonly in (True, False):
        with FeatureStore.open(store.path, readonly=readonly) as again:
            assert again.mark() == before
            assert StoreMark.from_dict(before.to_dict()) == before


def test_replaced_images_become_the_last(store: FeatureStore) -> None:
    store.put_many([("a", A), ("b", A), ("c", A)])
    since = mark_of(store)
    assert store.put_many([("b", B), ("d", B), ("a", A), ("b", A)], replace="last") == ["d", "a", "b"]
    assert store.ids() == ["c", "d", "a", "b"]
    assert store.get_many(["a", "b", "c", "d"]) == [A, A, A, B]
    changes = store.changes(since)
    assert (changes.put, changes.images, changes.foreign) == (["d", "a", "b"], 4, False)
    assert changes.mark == store.mark()


def test_a_number_is_never_used_twice(store: FeatureStore) -> None:
    store.put_many([("a", A), ("b", A)])
    since = mark_of(store)
    store.remove(["b"])
    store.put("b", B)
    assert store.changes(since).put == ["b"]
    store.remove(["a", "b"])
    between = mark_of(store)
    store.put("a", B)
    assert store.changes(since).put == store.changes(between).put == ["a"]


def test_a_version_that_keeps_no_marks_has_written(store: FeatureStore) -> None:
    store.put("a", A)
    since = mark_of(store)
    store.close()
    write_without_mark(store.path)
    with FeatureStore.open(store.path, readonly=True) as reader:
        assert reader.mark() is None
        changes = reader.changes(since)
        assert (changes.mark, changes.put, changes.images, changes.foreign) == (None, None, 1, False)
        with pytest.raises(LockedError, match="reading only"):
            reader.mark(make=True)
    with FeatureStore.open(store.path) as again:
        mark = again.mark(make=True)
        assert mark is not None
        assert again.changes(mark).put == []
        assert again.changes(since).put is None  # what was written without a mark may be anything
        again.put("b", B)
        assert again.changes(mark).put == ["b"]


def test_a_history_that_the_store_never_had(store: FeatureStore, tmp_path: Path) -> None:
    store.put("a", A)
    common = mark_of(store)
    store.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "data.mdb").write_bytes((store.path / "data.mdb").read_bytes())
    with FeatureStore.open(store.path) as one, FeatureStore.open(copy) as two:
        one.put("b", A)
        two.put("c", A)
        assert mark_of(one).commit == mark_of(two).commit
        assert two.changes(mark_of(one)).foreign
        assert two.changes(mark_of(one)).put is None
        assert two.changes(common).put == ["c"]
        assert two.changes(None).put is None
        assert not two.changes(None).foreign


@pytest.mark.parametrize("values", [{}, {"commit": 1, "token": "x"}, {"commit": "x", "token": "x", "sequence": 1}])
def test_what_is_no_mark_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="not the mark"):
        StoreMark.from_dict(values)


def test_a_damaged_mark_is_named(store: FeatureStore) -> None:
    store.close()
    with lmdb.open(str(store.path), max_dbs=4) as environment, environment.begin(write=True) as txn:
        txn.put(b"mark", b"\xff", db=environment.open_db(b"meta", txn=txn))
    with FeatureStore.open(store.path) as again, pytest.raises(FormatError, match="mark of the feature store"):
        again.mark()


names = st.sampled_from(["a", "b", "c", "d" * 600, "é"])
steps = st.lists(st.tuples(st.sampled_from(["put", "last", "remove", "mark"]), st.lists(names, max_size=3)))


@given(steps)
def test_changes_against_a_list_of_events(script: list[tuple[str, list[str]]]) -> None:
    put_at: dict[str, int] = {}  # when each image was put, in the order of the store
    marks: list[tuple[StoreMark, int]] = []
    with tempfile.TemporaryDirectory() as folder, FeatureStore.create(folder, dim=8) as store:
        for time, (step, ids) in enumerate(script):
            if step == "mark":
                marks.append((mark_of(store), time))
            elif step == "remove":
                ids = [name for name in dict.fromkeys(ids) if name in put_at]
                store.remove(ids)
                for name in ids:
                    del put_at[name]
            else:
                store.put_many([(name, A) for name in ids], replace="last" if step == "last" else False)
                for name in ids:
                    if step == "last":
                        put_at.pop(name, None)
                    put_at.setdefault(name, time)
        assert store.ids() == list(put_at)
        for mark, time in marks:
            changes = store.changes(mark)
            assert changes.put == [name for name, at in put_at.items() if at > time]
            assert changes.images == len(put_at)
