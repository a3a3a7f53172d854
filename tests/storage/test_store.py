from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from delf_engine.errors import (
    ConfigError,
    DelfEngineError,
    FeatureError,
    FormatError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.features import LocalFeatures
from delf_engine.storage import FeatureStore, StoreInfo
from helpers import random_features

A, B, C, EMPTY = (random_features(np.random.default_rng(n), n, 8, (n + 10, 30)) for n in (5, 20, 1, 0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "store", dim=8, codec="float32", model="delf-r18 0123") as opened:
        yield opened


def test_put_and_get(store: FeatureStore) -> None:
    assert store.put("a", A)
    assert store.put_many([("b", B), ("empty", EMPTY)]) == ["b", "empty"]
    assert store.get("a") == A
    assert store.get_many(["empty", "b", "empty"]) == [EMPTY, B, EMPTY]
    assert store.ids() == ["a", "b", "empty"]
    assert list(store.items(batch=2)) == [("a", A), ("b", B), ("empty", EMPTY)]
    assert len(store) == 3
    assert "b" in store
    assert "c" not in store
    assert 3 not in store
    assert "" not in store
    assert store.get_many([]) == []
    assert store.put_many([]) == []


def test_ids_that_are_there_are_left_alone(store: FeatureStore) -> None:
    store.put("a", A)
    assert not store.put("a", B)
    assert store.put_many([("a", B), ("c", C), ("c", B)]) == ["c"]
    assert store.get_many(["a", "c"]) == [A, C]
    assert store.put_many([("a", B), ("c", A), ("c", B)], replace=True) == ["a", "c"]
    assert store.get_many(["a", "c"]) == [B, B]
    assert store.ids() == ["a", "c"]


def test_remove(store: FeatureStore) -> None:
    store.put_many([("a", A), ("b", B), ("c", C)])
    with pytest.raises(UnknownIdError, match="nobody"):
        store.remove(["a", "nobody"])
    assert len(store) == 3
    store.remove(["a", "a", "c"])
    assert store.ids() == ["b"]
    store.put("a", A)
    assert store.ids() == ["b", "a"]
    store.remove([])


@pytest.mark.parametrize(
    "image_id",
    ["x" * 5000, "x" * 480, "x" * 481, "日本語/é.jpg", "with\x00zero", " ", os.fsdecode(b"caf\xe9.jpg"), "\ud83d"],
)
def test_any_non_empty_string_is_an_id(store: FeatureStore, image_id: str) -> None:
    store.put_many([(image_id, A), (image_id + "'", B)])
    assert store.ids() == [image_id, image_id + "'"]
    assert store.get(image_id) == A
    store.remove([image_id])
    assert image_id not in store


@pytest.mark.parametrize("image_id", ["", None, 3, b"a"])
def test_bad_ids(store: FeatureStore, image_id: object) -> None:
    with pytest.raises(ConfigError, match="image id"):
        store.put(image_id, A)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="image id"):
        store.get(image_id)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="list"):
        store.remove("several")


def test_bad_batches_store_nothing(store: FeatureStore) -> None:
    with pytest.raises(MismatchError, match=r"b: .*9.* 8"):
        store.put_many([("a", A), ("b", random_features(np.random.default_rng(0), 3, 9))])
    with pytest.raises(FeatureError, match=r"b: .*list"):
        store.put_many([("a", A), ("b", [])])  # type: ignore[list-item]
    assert len(store) == 0


def test_unknown_ids_are_named(store: FeatureStore) -> None:
    with pytest.raises(UnknownIdError, match="'nobody'"):
        store.get("nobody")
    store.put("a", A)
    with pytest.raises(UnknownIdError, match="'nobody'"):
        store.get_many(["a", "nobody"])


def test_reopen(store: FeatureStore) -> None:
    store.put_many([("a", A), ("b", B)])
    path = store.path
    info = store.info()
    assert info == StoreInfo(2, info.bytes, 8, "float32", "delf-r18 0123", 1)
    assert info.to_dict()["codec"] == "float32"
    assert "2 images, 8-D float32" in repr(store)
    store.close()
    store.close()
    assert "closed" in repr(store)
    with pytest.raises(DelfEngineError, match="closed"):
        store.get("a")
    with FeatureStore.open(path) as again:
        assert again.put("c", C)
        assert (again.dim, again.codec, again.model) == (8, "float32", "delf-r18 0123")
    with FeatureStore.open(path, readonly=True) as reader:
        assert list(reader.items()) == [("a", A), ("b", B), ("c", C)]
        with pytest.raises(LockedError, match="reading only"):
            reader.put("d", A)
        with pytest.raises(LockedError, match="reading only"):
            reader.remove(["a"])


def test_features_outlive_the_store(tmp_path: Path) -> None:
    with FeatureStore.create(tmp_path, dim=8, codec="float32") as store:
        store.put("b", B)
        features = store.get("b")
    assert features == B


def test_create_refuses(tmp_path: Path, store: FeatureStore) -> None:
    store.close()
    with pytest.raises(FormatError, match="already"):
        FeatureStore.create(store.path, dim=8)
    FeatureStore.open(store.path).close()
    for options in ({"dim": 0}, {"dim": 8, "codec": "int4"}, {"dim": 8, "map_size": 0}):
        with pytest.raises(ConfigError, match="dim"):
            FeatureStore.create(tmp_path / "new", **options)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="cannot be created"):
        FeatureStore.create(tmp_path / "file", dim=8)


def test_an_interrupted_creation_can_be_repeated(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), max_dbs=4).close()
    with pytest.raises(FormatError, match="not a feature store"):
        FeatureStore.open(tmp_path)
    with FeatureStore.create(tmp_path, dim=8) as store:
        assert len(store) == 0


def test_open_refuses_what_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no feature store here"):
        FeatureStore.open(tmp_path)
    for contents in (b"", b"x" * 100, b"x" * 50_000):
        (tmp_path / "data.mdb").write_bytes(contents)
        for readonly in (True, False):
            with pytest.raises(FormatError, match=r"data\.mdb"):
                FeatureStore.open(tmp_path, readonly=readonly)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"format": "delf-engine feature store", "version": 7}', "format version 7, this version reads 1"),
        (b'{"format": "something else"}', "not a feature store"),
        (b"[]", "not a feature store"),
        (b"{", "not a feature store"),
        (b'{"format": "delf-engine feature store", "version": 1, "dim": 8, "codec": "int4"}', "damaged"),
    ],
)
def test_open_refuses_other_headers(store: FeatureStore, header: bytes, message: str) -> None:
    store.close()
    with lmdb.open(str(store.path), max_dbs=4) as environment, environment.begin(write=True) as txn:
        txn.put(b"header", header, db=environment.open_db(b"meta", txn=txn))
    with pytest.raises(FormatError, match=message):
        FeatureStore.open(store.path)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(store: FeatureStore, fraction: float) -> None:
    store.put_many([(str(i), B) for i in range(50)])
    store.close()
    data = store.path / "data.mdb"
    os.truncate(data, int(data.stat().st_size * fraction))
    for readonly in (True, False):
        with pytest.raises(FormatError, match="cut short"):
            FeatureStore.open(store.path, readonly=readonly)


def test_flipped_bytes_are_found_and_named(store: FeatureStore) -> None:
    store.put_many([("a", A), ("b", B)])
    store.close()
    data = store.path / "data.mdb"
    contents = bytearray(data.read_bytes())
    at = contents.find(B.descriptors.tobytes())
    assert at > 0
    contents[at + 17] ^= 1
    data.write_bytes(contents)
    with FeatureStore.open(store.path) as again:
        assert again.get("a") == A
        with pytest.raises(FormatError, match=r": b: .*damaged"):
            again.get("b")
        (whole, nothing), (damaged, problem) = again.check()
        assert (whole, nothing, damaged) == ("a", None, "b")
        assert "damaged" in str(problem)
        again.put("b", B, replace=True)
        assert again.get("b") == B
        assert list(again.check()) == [("a", None), ("b", None)]


def test_the_map_grows(tmp_path: Path) -> None:
    batch = [(str(i), random_features(np.random.default_rng(i), 100, 8)) for i in range(100)]
    with FeatureStore.create(tmp_path, dim=8, codec="float32", map_size=1) as store:
        assert len(store.put_many(batch)) == 100
        assert list(store.items()) == batch


class StoreAgainstDictionary(RuleBasedStateMachine):
    """Any sequence of calls leaves the store equal to a dictionary."""

    names = st.sampled_from(["a", "b", "c", "d" * 600, "é"])
    values = st.sampled_from([A, B, C, EMPTY])

    @initialize()
    def start(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = FeatureStore.create(self.folder.name, dim=8, codec="float32", map_size=1)
        self.wanted: dict[str, LocalFeatures] = {}

    @rule(items=st.lists(st.tuples(names, values), max_size=4), replace=st.booleans())
    def put(self, items: list[tuple[str, LocalFeatures]], replace: bool) -> None:
        written: dict[str, None] = {}
        for name, value in items:
            if replace:
                self.wanted.pop(name, None)
                written.pop(name, None)
            if name not in self.wanted:
                self.wanted[name] = value
                written[name] = None
        assert self.store.put_many(items, replace=replace) == list(written)

    @rule(ids=st.lists(names, max_size=3))
    def remove(self, ids: list[str]) -> None:
        if set(ids) <= set(self.wanted):
            self.store.remove(ids)
            for name in set(ids):
                del self.wanted[name]
        else:
            with pytest.raises(UnknownIdError):
                self.store.remove(ids)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = FeatureStore.open(self.folder.name)

    @invariant()
    def equal(self) -> None:
        assert list(self.store.items()) == list(self.wanted.items())
        assert len(self.store) == len(self.wanted)

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


StoreAgainstDictionary.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
