"""A reader is one snapshot of store and index, beside any writer, until it refreshes; who may open what."""

from __future__ import annotations

import copy
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, DelfEngineError, DelfEngineWarning, LockedError, UnknownIdError
from delf_engine.storage import FeatureStore
from forkserver import Child
from helpers import raises, random_features

IMAGES = {f"image {i}": random_features(np.random.default_rng(i), 30) for i in range(8)}
NAMES = list(IMAGES)


@pytest.fixture
def directory(tmp_path: Path, tiny_model: Path, kind: str) -> Path:
    """An engine of the first four images."""
    with de.Engine.create(tmp_path / "e", model=tiny_model, index=kind) as engine:  # type: ignore[arg-type]
        engine.add_features([(name, IMAGES[name]) for name in NAMES[:4]])
    return tmp_path / "e"


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A reader that is half live warns of images that it cannot find."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DelfEngineWarning)
        yield


WRITER = """
    import sys
    import numpy as np
    from helpers import random_features
    import delf_engine as de
    with de.Engine.open(sys.argv[1]) as engine:
        for line in sys.stdin:
            what, number = line.split()
            if what == "add":
                features = random_features(np.random.default_rng(int(number)), 30)
                engine.state.commit([(f"image {number}", features)])
            elif what == "remove":
                engine.remove(f"image {number}")
            else:
                engine.reindex(number)
            print("done", flush=True)
"""


def assert_holds(engine: de.Engine, names: list[str]) -> None:
    """All ways to ask give the same answer."""
    assert engine.ids() == engine.index.ids() == names
    assert (len(engine), engine.info().images) == (len(names), len(names))
    for name, features in IMAGES.items():
        assert (name in engine) == (name in names)
        hits = engine.search(features, top_k=99)
        assert {hit.id for hit in hits} <= set(names)
        if name in names:
            assert engine.get(name) == engine.store.get(name)
            assert hits[0].id == name
            assert hits[0].verification is not None
        else:
            with raises(UnknownIdError, name):
                engine.get(name)


def test_a_reader_is_a_snapshot_until_it_refreshes(directory: Path) -> None:
    process = Child(WRITER, directory)

    def told(line: str) -> None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    with (
        de.Engine.open(directory, readonly=True) as reader,
        de.Engine.open(directory, readonly=True, auto_refresh=True) as live,
    ):
        assert_holds(reader, NAMES[:4])
        told("add 4")  # committed, not saved in the index
        told("add 5")
        assert_holds(reader, NAMES[:4])
        assert_holds(live, NAMES[:6])
        told("remove 0")
        assert_holds(reader, NAMES[:4])
        assert (reader.refresh(), reader.refresh()) == (True, False)
        assert_holds(reader, NAMES[1:6])
        assert_holds(live, NAMES[1:6])
        before = reader.state
        told("reindex bow")
        assert reader.info().index["kind"] != "bow"
        assert reader.refresh()
        assert (reader.info().index["kind"], live.info().index["kind"]) == ("bow", "bow")
        told("remove 1")
        assert reader.refresh()
        assert_holds(reader, NAMES[2:6])
        # As a search in another thread that began before the reader refreshed.
        assert before.store.ids() == before.index.ids() == NAMES[1:6]
        assert before.store.get(NAMES[1]) == before.store.get(NAMES[1])
    process.communicate()
    for call in (reader.refresh, live.ids):
        with raises(DelfEngineError, "closed"):
            call()  # type: ignore[operator]


def test_one_process_reads_as_often_as_it_likes_beside_its_own_writer(directory: Path) -> None:
    first = de.Engine.open(directory, readonly=True)
    with de.Engine.open(directory) as writer, de.Engine.open(directory, readonly=True) as second:
        writer.add_features([(NAMES[4], IMAGES[NAMES[4]])])
        writer.remove(NAMES[1])
        for reader in (first, second):
            assert_holds(reader, NAMES[:4])
            assert reader.refresh()
            assert_holds(reader, [NAMES[0], *NAMES[2:5]])
        assert_holds(writer, [NAMES[0], *NAMES[2:5]])
        assert not writer.refresh()
        with raises(LockedError, str(directory), "this process", "readonly=True"):
            de.Engine.open(directory)
        first.close()
        assert_holds(second, [NAMES[0], *NAMES[2:5]])
    de.Engine.open(directory).close()
    process = Child(WRITER, directory)
    process.stdin.write("remove 0\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    with raises(LockedError, "another process is writing", "readonly=True"):
        de.Engine.open(directory)
    process.communicate()


def test_a_service_of_many_threads(directory: Path) -> None:
    """Each search is of one snapshot, while they change under it."""
    with (
        de.Engine.open(directory) as writer,
        de.Engine.open(directory, readonly=True, auto_refresh=True) as service,
    ):

        def work(thread: int) -> None:
            for i in range(12):
                if thread == 0:
                    writer.add_features([(NAMES[4], IMAGES[NAMES[4]])])
                    writer.remove(NAMES[4])
                else:
                    name = NAMES[i % 4]
                    hits = service.search(IMAGES[name])
                    assert hits[0].id == name
                    assert all(hit.verification is not None for hit in hits)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert service.ids() == NAMES[:4]


def test_a_snapshot_that_was_dropped_holds_nothing(directory: Path) -> None:
    """Neither does a reader that was killed: the file gives its space to new images."""
    killed = Child(
        "import sys, time, delf_engine as de\n"
        "engine = de.Engine.open(sys.argv[1], readonly=True)\nprint('ready', flush=True)\ntime.sleep(600)",
        directory,
    )
    assert killed.stdout.readline() == "ready\n"
    killed.kill()
    killed.communicate()
    with de.Engine.open(directory) as writer, de.Engine.open(directory, readonly=True) as reader:

        def grown() -> int:
            before = writer.info().store["bytes"]
            for i in range(40):
                writer.state.commit([("again", random_features(np.random.default_rng(i), 400))], replace=True)
            return int(writer.info().store["bytes"] - before)

        assert grown() > 1_000_000
        assert reader.refresh()
        assert grown() < 600_000


def test_on_a_disk_that_cannot_be_written(directory: Path, tiny_model: Path) -> None:
    """Reading works there; writing says so, and names the way out."""
    code = """
        import os, sys
        import delf_engine as de
        with de.Engine.open("e", readonly=True) as engine:
            engine.search(engine.get("image 1"))  # loads modules, which may lie where only root can read
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            de.Engine.open("e")
        except de.DelfEngineError as error:
            print(type(error).__name__, "readonly=True" in str(error), "another process" in str(error))
        with de.Engine.open("e", readonly=True) as one, de.Engine.open("e", readonly=True) as two:
            print(len(one), two.search(two.get("image 1"))[0].id == "image 1", flush=True)
            sys.stdin.readline()
            for what in (one.ids, one.refresh, one.ids):
                try:
                    print(what())
                except de.DelfEngineError as error:
                    print(type(error).__name__, "hang" in str(error))
    """
    place = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(directory, place / "e")
        place.chmod(0o755)
        for path in place.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        process = Child(f"import os\nos.chdir({str(place)!r})\nimport textwrap\nexec(textwrap.dedent({code!r}))")
        assert process.stdout.readline().split() == ["FormatError", "True", "False"]
        assert process.stdout.readline().split() == ["4", "True"]
        for path in place.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with de.Engine.open(place / "e") as writer:
            writer.remove(NAMES[0])
        assert process.communicate().splitlines() == ["LockedError True", "True", str(NAMES[1:4])]
    finally:
        shutil.rmtree(place)


def test_the_extractor_is_kept(directory: Path) -> None:
    with de.Engine.open(directory) as writer, de.Engine.open(directory, readonly=True) as reader:
        extractor = reader.extractor
        writer.remove(NAMES[0])
        assert reader.refresh()
        assert reader.extractor is extractor


def test_an_engine_goes_to_another_process_by_its_path(directory: Path) -> None:
    with de.Engine.open(directory) as engine:
        for action in (pickle.dumps, copy.copy, copy.deepcopy):
            with raises(ConfigError, f"Engine.open({str(directory)!r}, readonly=True)"):
                action(engine)
            with raises(ConfigError, f"FeatureStore.open({str(engine.store.path)!r}, readonly=True)"):
                action(engine.store)


def test_a_store_that_is_pinned(directory: Path) -> None:
    path = directory / "features"
    with FeatureStore.open(path) as writer, FeatureStore.open(path, readonly=True) as reader:
        reader.pin()
        assert not reader.has_gone_on()
        writer.remove([NAMES[0]])
        assert reader.has_gone_on()
        assert (reader.ids(), writer.ids()) == (NAMES[:4], NAMES[1:4])
