from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from delf_engine.errors import LockedError
from delf_engine.storage import FeatureStore
from forkserver import Child
from helpers import random_features

A, B, C, EMPTY = (random_features(np.random.default_rng(n), n, 8, (n + 10, 30)) for n in (5, 20, 1, 0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore.create(tmp_path / "store", dim=8, codec="float32", model="delf-r18 0123") as opened:
        yield opened


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
    with pytest.raises(LockedError, match="another process"):
        FeatureStore.open(path)
    with pytest.raises(LockedError, match="this process has"):
        FeatureStore.open(path, readonly=True)
    assert store.put("a", A)
    store.close()
    process = Child(HOLDER, path, "writer")
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(LockedError, match="another process is writing"):
        FeatureStore.open(path)
    with pytest.raises(LockedError, match="another process is writing"):
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
