"""Revisions: what a store tells of what has happened since."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FormatError, UnknownIdError
from delf_engine.storage import FeatureStore, Revision
from helpers import raises, random_features

A, B = (random_features(np.random.default_rng(n), n, 8, (n + 10, 30)) for n in (5, 20))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "store", dim=8, codec="float32") as opened:
        yield opened


def test_a_revision_is_of_one_state(store: FeatureStore) -> None:
    revisions = [store.revision()]
    for change in (
        lambda: store.put("a", A),
        lambda: store.put("a", B, replace=True),
        lambda: store.remove(["a"]),
    ):
        change()
        revisions.append(store.revision())
    assert len({revision.token for revision in revisions}) == len({revision.commit for revision in revisions}) == 4
    store.put("b", B)
    before = store.revision()
    assert store.put_many([("b", A)]) == store.put_many([]) == []
    store.remove([])
    with pytest.raises(UnknownIdError):
        store.remove(["b", "nobody"])
    assert store.revision() == before
    store.close()
    for readonly in (True, False):
        with FeatureStore.open(store.path, readonly=readonly) as again:
            assert again.revision() == before
            assert Revision.from_dict(before.to_dict()) == before


def test_a_history_that_the_store_never_had(store: FeatureStore, tmp_path: Path) -> None:
    store.put("a", A)
    common = store.revision()
    store.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "data.mdb").write_bytes((store.path / "data.mdb").read_bytes())
    with FeatureStore.open(store.path) as one, FeatureStore.open(copy) as two:
        one.put("b", A)
        two.put("c", A)
        assert one.revision().commit == two.revision().commit
        assert two.changes(one.revision()).foreign
        assert two.changes(one.revision()).put is None
        assert two.changes(common).put == ["c"]
        assert two.changes(None).put is None
        assert not two.changes(None).foreign


@pytest.mark.parametrize("values", [{}, {"commit": 1, "token": "x"}, {"commit": "x", "token": "x", "sequence": 1}])
def test_what_is_no_revision_is_refused(values: dict[str, object]) -> None:
    with raises(FormatError):
        Revision.from_dict(values)


def test_a_damaged_revision_is_named(store: FeatureStore) -> None:
    store.close()
    with lmdb.open(str(store.path), max_dbs=4) as environment, environment.begin(write=True) as txn:
        txn.put(b"revision", b"\xff", db=environment.open_db(b"meta", txn=txn))
    with FeatureStore.open(store.path) as again, raises(FormatError):
        again.revision()


names = st.sampled_from(["a", "b", "c", "d" * 600, "é"])
steps = st.lists(st.tuples(st.sampled_from(["put", "replace", "remove", "look"]), st.lists(names, max_size=3)))


@given(steps)
def test_changes_against_a_list_of_events(script: list[tuple[str, list[str]]]) -> None:
    put_at: dict[str, int] = {}  # when each image was put, in the order of the store
    revisions: list[tuple[Revision, int]] = []
    with tempfile.TemporaryDirectory() as folder, FeatureStore.create(folder, dim=8) as store:
        for time, (step, ids) in enumerate(script):
            if step == "look":
                revisions.append((store.revision(), time))
            elif step == "remove":
                ids = [name for name in dict.fromkeys(ids) if name in put_at]
                store.remove(ids)
                for name in ids:
                    del put_at[name]
            else:
                store.put_many([(name, A) for name in ids], replace=step == "replace")
                for name in ids:
                    if step == "replace":
                        put_at.pop(name, None)
                    put_at.setdefault(name, time)
        assert store.ids() == list(put_at)
        for revision, time in revisions:
            changes = store.changes(revision)
            assert changes.put == [name for name, at in put_at.items() if at > time]
            assert changes.images == len(put_at)
