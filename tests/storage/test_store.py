from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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
from forkserver import Child
from helpers import raises, random_features

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


def test_a_store_takes_another_as_it_is_stored(store: FeatureStore, tmp_path: Path) -> None:
    store.put("a", A)
    with FeatureStore.create(tmp_path / "other", dim=8, codec="float32", model="delf-r18 0123") as other:
        other.put_many([("c", C), ("a", B), ("x" * 5000, EMPTY)])
        assert store.put_stored(other) == ["c", "x" * 5000]
        before = store.revision()
        assert store.put_stored(other) == []
        assert store.revision() == before
    assert list(store.items()) == [("a", A), ("c", C), ("x" * 5000, EMPTY)]
    assert all(problem is None for _, problem in store.check())
    for number, options in enumerate(({"dim": 9}, {"codec": "float16"}, {"model": "other"})):
        chosen: dict[str, Any] = {"dim": 8, "codec": "float32", "model": "delf-r18 0123", **options}
        with (
            FeatureStore.create(tmp_path / str(number), **chosen) as other,
            raises(MismatchError, str(other.path)),
        ):
            store.put_stored(other)


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
    with raises(ConfigError, "image id"):
        store.put(image_id, A)  # type: ignore[arg-type]
    with raises(ConfigError, "image id"):
        store.get(image_id)  # type: ignore[arg-type]
    with raises(ConfigError, "list"):
        store.remove("several")


def test_bad_batches_store_nothing(store: FeatureStore) -> None:
    with raises(MismatchError, "b: ", "9", "8"):
        store.put_many([("a", A), ("b", random_features(np.random.default_rng(0), 3, 9))])
    with raises(FeatureError, "b: ", "list"):
        store.put_many([("a", A), ("b", [])])  # type: ignore[list-item]
    assert len(store) == 0


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
    with raises(DelfEngineError, "closed"):
        store.get("a")
    with FeatureStore.open(path) as again:
        assert again.put("c", C)
        assert (again.dim, again.codec, again.model) == (8, "float32", "delf-r18 0123")
    with FeatureStore.open(path, readonly=True) as reader:
        assert list(reader.items()) == [("a", A), ("b", B), ("c", C)]
        with raises(LockedError, "reading only"):
            reader.put("d", A)
        with raises(LockedError, "reading only"):
            reader.remove(["a"])


def test_features_outlive_the_store(tmp_path: Path) -> None:
    with FeatureStore.create(tmp_path, dim=8, codec="float32") as store:
        store.put("b", B)
        features = store.get("b")
    assert features == B


def test_create_refuses(tmp_path: Path, store: FeatureStore) -> None:
    store.close()
    with raises(FormatError, "already"):
        FeatureStore.create(store.path, dim=8)
    FeatureStore.open(store.path).close()
    for options in ({"dim": 0}, {"dim": 8, "codec": "int4"}, {"dim": 8, "map_size": 0}):
        with raises(ConfigError, "dim"):
            FeatureStore.create(tmp_path / "new", **options)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("x")
    with raises(FormatError, "cannot be created"):
        FeatureStore.create(tmp_path / "file", dim=8)


def test_an_interrupted_creation_can_be_repeated(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path), max_dbs=4).close()
    with raises(FormatError, "not a feature store"):
        FeatureStore.open(tmp_path)
    with FeatureStore.create(tmp_path, dim=8) as store:
        assert len(store) == 0


def test_open_refuses_what_is_not_a_store(tmp_path: Path) -> None:
    with raises(FormatError, "no feature store here"):
        FeatureStore.open(tmp_path)
    for contents in (b"", b"x" * 100, b"x" * 50_000):
        (tmp_path / "data.mdb").write_bytes(contents)
        for readonly in (True, False):
            with raises(FormatError, "data.mdb"):
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
    with raises(FormatError, message):
        FeatureStore.open(store.path)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(store: FeatureStore, fraction: float) -> None:
    store.put_many([(str(i), B) for i in range(50)])
    store.close()
    data = store.path / "data.mdb"
    os.truncate(data, int(data.stat().st_size * fraction))
    for readonly in (True, False):
        with raises(FormatError, "cut short"):
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
        with raises(FormatError, ": b: ", "damaged"):
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


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    code = """
        import resource, sys, numpy as np
        from helpers import random_features
        from delf_engine.errors import FormatError
        from delf_engine.storage import FeatureStore
        features = random_features(np.random.default_rng(0), 1000, 8)
        with FeatureStore.create(sys.argv[1], dim=8) as store:
            store.put("a", features)
            resource.setrlimit(resource.RLIMIT_FSIZE, (store.info().bytes + 50_000,) * 2)
            try:
                store.put_many([(str(i), features) for i in range(50)])
            except FormatError as error:
                assert "as it was before" in str(error), error
                print(len(store), store.get("a") == store.get("a"))
    """
    process = Child(code, tmp_path)
    assert process.communicate().split() == ["1", "True"]
    with FeatureStore.open(tmp_path) as store:
        assert store.ids() == ["a"]
        store.put("b", A)


def test_no_room_for_readers_does_not_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with raises(FormatError, "lock.mdb"):
        FeatureStore.create(tmp_path / "s", dim=8)
    assert not (tmp_path / "s" / "lock.mdb").exists()


HOLDER = """
    import sys
    from delf_engine.storage import FeatureStore
    with FeatureStore.open(sys.argv[1], readonly=sys.argv[2] == "reader") as store:
        print("ready", flush=True)
        for line in sys.stdin:
            print(*store.ids(), flush=True)
"""


def test_a_second_writer_is_refused_at_once(store: FeatureStore) -> None:
    path = store.path
    with raises(LockedError, "this process", "readonly=True"):
        FeatureStore.open(path)
    assert store.put("a", A)
    store.close()
    process = Child(HOLDER, path, "writer")
    assert process.stdout.readline() == "ready\n"
    with raises(LockedError, "another process is writing", "readonly=True"):
        FeatureStore.open(path)
    with raises(LockedError, "another process is writing"):
        FeatureStore.create(path, dim=8)
    with FeatureStore.open(path, readonly=True) as reader:
        assert reader.ids() == ["a"]
    process.communicate()
    FeatureStore.open(path).close()


def test_readers_in_other_processes_see_what_is_committed(tmp_path: Path) -> None:
    with FeatureStore.create(tmp_path, dim=8, map_size=1) as store:
        store.put("a", A)
        process = Child(HOLDER, tmp_path, "reader")
        assert process.stdout.readline() == "ready\n"
        for wanted in ("a", "a b"):
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == wanted
            store.put("b", random_features(np.random.default_rng(0), 10_000, 8))  # beyond the reader's map
        process.communicate()
        assert process.wait() == 0


def test_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    code = """
        import sys, numpy as np
        from helpers import random_features
        from delf_engine.storage import FeatureStore
        rng = np.random.default_rng(0)
        with FeatureStore.create(sys.argv[1], dim=8, codec="float32", map_size=1) as store:
            for i in range(10**6):
                features = random_features(rng, 50, 8, (i + 1, 1))
                store.put_many([(f"{i}/{j}", features) for j in range(20)])
                print(i, flush=True)
    """
    process = Child(code, tmp_path)
    for _ in range(25):
        last = int(process.stdout.readline())
    process.kill()
    rest = process.stdout.read().split()
    process.wait()
    done = int(rest[-1]) if rest and rest[-1].isdigit() else last
    with FeatureStore.open(tmp_path) as store:  # the lock went with the process
        ids = store.ids()
        batches = len(ids) // 20
        assert batches >= done  # a line that was read says that its batch is there; the pipe may have cut the last
        assert ids == [f"{i}/{j}" for i in range(batches) for j in range(20)]
        assert all(features.image_size == (int(name.split("/")[0]) + 1, 1) for name, features in store.items())
        assert store.put_many([(name, A) for name in ids]) == []
        assert store.put("more", A)


def test_threads_share_a_store(tmp_path: Path) -> None:
    with FeatureStore.create(tmp_path, dim=8, codec="float32", map_size=1) as store:

        def work(thread: int) -> None:
            for i in range(20):
                store.put(f"{thread}/{i}", B)
                assert store.get(f"{thread}/{i}") == B

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 80


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
