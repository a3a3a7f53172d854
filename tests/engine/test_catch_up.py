"""The index catches up with the store: after crashes, beside other processes, after damage; it lists no ids."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine import catch_up as catching_up
from delf_engine.engine.directory import check_directory, empty_index, open_encoder
from delf_engine.errors import DelfEngineWarning, FormatError, LockedError, UnknownIdError
from delf_engine.index.segments import disk
from delf_engine.index.segments.collection import Collection
from delf_engine.storage import FeatureStore
from forkserver import Child
from helpers import flip_stored, raises, random_features

IMAGES = {f"image {i}": random_features(np.random.default_rng(i), 5 + i) for i in range(12)}
NAMES = list(IMAGES)
QUERY = random_features(np.random.default_rng(99), 30)


def features_of(names: list[str]) -> list[tuple[str, de.LocalFeatures]]:
    return [(name, IMAGES[name]) for name in names]


def create(directory: Path, model: Path, kind: str, *groups: list[str]) -> Path:
    """An engine whose index has one segment for each group."""
    with de.Engine.create(directory, model=model, index=kind) as engine:  # type: ignore[arg-type]
        for names in groups:
            engine.add_features(features_of(names))
    return directory


def assert_caught_up(engine: de.Engine, names: list[str] | None = None) -> None:
    """The index equals one made anew from the store, in ids, their order, and every bit of the scores."""
    words = open_encoder(engine.directory, engine.manifest)
    wanted = empty_index(engine.manifest, words)
    stored = engine.ids()
    wanted.add(stored, engine.store.get_many(stored))
    assert engine.index.ids() == stored
    if names is not None:
        assert stored == names
    (ids, scores), (wanted_ids, wanted_scores) = engine.index.search(QUERY, 999), wanted.search(QUERY, 999)
    assert ids == wanted_ids
    np.testing.assert_array_equal(scores, wanted_scores)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each time that all ids of a store or an index are listed, or features are read."""
    seen: list[str] = []
    for owner, name in ((FeatureStore, "ids"), (Collection, "__iter__"), (FeatureStore, "get_many")):
        whole = getattr(owner, name)

        def noted(self: Any, *arguments: Any, whole: Any = whole, name: str = name) -> Any:
            seen.append(name)
            return whole(self, *arguments)

        monkeypatch.setattr(owner, name, noted)
    return seen


def test_opening_lists_no_ids_and_reads_only_what_was_missed(
    tmp_path: Path, tiny_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4], NAMES[4:8])

    def opened(readonly: bool, read: list[str], wanted: list[str]) -> None:
        with monkeypatch.context() as patch:
            seen = spy(patch)
            engine = de.Engine.open(directory, readonly=readonly)
            assert seen == read
        with engine:
            assert_caught_up(engine, wanted)

    files = {file: file.stat().st_mtime_ns for file in (directory / "index").rglob("*") if file.name != ".lock"}
    for readonly in (True, False):
        opened(readonly, [], NAMES[:8])
    assert {file: file.stat().st_mtime_ns for file in files} == files
    with de.Engine.open(directory) as engine:
        engine.state.commit(features_of(NAMES[8:10]))
        engine.state.commit([(NAMES[2], IMAGES[NAMES[11]])], replace=True)  # and no save: a kill
    for readonly in (True, False):
        opened(readonly, ["get_many"], [*NAMES[:2], *NAMES[3:10], NAMES[2]])


@pytest.mark.parametrize("part", ["features", "index"])
def test_a_part_that_comes_from_a_backup(tmp_path: Path, tiny_model: Path, kind: str, part: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4])
    shutil.copytree(directory, tmp_path / "backup")
    with de.Engine.open(directory) as engine:
        engine.add_features([(NAMES[0], QUERY), *features_of(NAMES[4:6])], replace=True)
        engine.remove(NAMES[2])
    shutil.rmtree(directory / part)
    shutil.copytree(tmp_path / "backup" / part, directory / part)
    if part == "features":
        with FeatureStore.open(directory / "features") as store:  # and goes another way from there
            store.put_many(features_of(NAMES[7:]))
    with de.Engine.open(directory, readonly=True) as engine:
        assert_caught_up(engine)
    with de.Engine.open(directory) as engine:
        assert_caught_up(engine, [*NAMES[:4], *NAMES[7:]] if part == "features" else None)
    with de.Engine.open(directory) as engine:
        assert_caught_up(engine)


def test_an_image_whose_features_are_damaged_is_left_out(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4])
    with de.Engine.open(directory) as engine:
        engine.store.put_many(features_of(NAMES[4:8]))
    flip_stored(directory / "features", NAMES[5])
    for readonly in (True, False):
        with pytest.warns(DelfEngineWarning, match=NAMES[5]):
            engine = de.Engine.open(directory, readonly=readonly)
        with engine:
            assert engine.index.ids() == [name for name in NAMES[:8] if name != NAMES[5]]
            if not readonly:
                engine.add_features(features_of(NAMES[5:6]), replace=True)
                assert_caught_up(engine, [*NAMES[:5], *NAMES[6:8], NAMES[5]])
    flip_stored(directory / "features", NAMES[6])
    with de.Engine.open(directory) as engine:
        engine.remove(NAMES[6])
        assert_caught_up(engine)


CHANGES: dict[str, Callable[[de.Engine], object]] = {
    "add": lambda engine: engine.add_features(features_of(NAMES[8:10])),
    "replace": lambda engine: engine.add_features([(NAMES[7], QUERY), (NAMES[1], QUERY)], replace=True),
    "replace the last": lambda engine: engine.add_features([(NAMES[7], QUERY)], replace=True),
    "remove": lambda engine: engine.remove([NAMES[7], NAMES[1]]),
    "compact": lambda engine: engine.compact(),
}
MOMENTS = [
    (FeatureStore, "put_many", "after"),
    (FeatureStore, "remove", "after"),
    (Collection, "remove", "before"),
    (Collection, "remove", "after"),
    (Collection, "add", "before"),
    (Collection, "add", "after"),
    (Collection, "save", "before"),
    (disk, "create_array", "before"),
    (disk, "write_manifest", "before"),
    (disk, "write_manifest", "after"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_interrupted_at_every_step(
    tmp_path: Path, tiny_model: Path, kind: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(tmp_path / "made", tiny_model, kind, NAMES[:4], NAMES[4:8])
    interrupted = 0
    for number, (owner, name, when) in enumerate(MOMENTS):
        for goes_on in (False, True):
            directory = tmp_path / f"{number} {goes_on}"
            shutil.copytree(made, directory)
            whole = getattr(owner, name)

            def stop(*arguments: Any, whole: Any = whole, when: str = when, **options: Any) -> Any:
                if when == "after":
                    whole(*arguments, **options)
                raise KeyboardInterrupt

            with de.Engine.open(directory) as engine:
                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, stop)
                    try:
                        CHANGES[change](engine)
                    except KeyboardInterrupt:
                        interrupted += 1
                if goes_on:
                    engine.add_features(features_of(NAMES[10:]))
                    assert_caught_up(engine)
                stored = engine.ids()
            for readonly in (True, False):
                with de.Engine.open(directory, readonly=readonly) as engine:
                    assert_caught_up(engine, stored)
    assert interrupted >= 6


WRITER = """
    import sys
    import numpy as np
    from helpers import random_features
    import delf_engine as de
    rng = np.random.default_rng(int(sys.argv[2]))
    with de.Engine.open(sys.argv[1]) as engine:
        for step in range(10**6):
            if len(sys.argv) > 3:
                sys.stdin.readline()
            names = [f"{sys.argv[2]}/{step}/{i}" for i in range(3)]
            engine.add_features([(name, random_features(rng, 5)) for name in names])
            ids = engine.ids()
            engine.state.commit([(ids[step % len(ids)], random_features(rng, 5))], replace=True)
            if step % 3 == 1:
                engine.remove(ids[0])
            if step % 4 == 3:
                engine.compact()
            engine.state.commit([(names[0] + " waits", random_features(rng, 5))])
            print(step, flush=True)
"""


def test_killed_at_random_moments(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4])
    rng = np.random.default_rng(0)
    for turn in range(3):
        process = Child(WRITER, directory, turn)
        for _ in range(int(rng.integers(3, 9))):
            step = int(process.stdout.readline())
        with raises(LockedError):
            de.Engine.open(directory)
        time.sleep(float(rng.uniform(0, 0.03)))
        process.kill()
        rest = process.stdout.read().split()
        process.wait()
        step = int(rest[-1]) if rest else step
        with de.Engine.open(directory, readonly=True, check=True) as engine:
            assert f"{turn}/{step}/0 waits" in engine
            assert_caught_up(engine)
            assert engine.check().whole
        with de.Engine.open(directory) as engine:
            assert_caught_up(engine)


def test_readers_beside_a_writer(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES)
    process = Child(WRITER, directory, 0, "step by step")
    for _ in range(4):
        with de.Engine.open(directory, readonly=True) as reader:
            assert_caught_up(reader)
            ids, (found, scores) = reader.index.ids(), reader.index.search(QUERY, 99)
            for _ in range(3):
                process.stdin.write("\n")
                process.stdin.flush()
                process.stdout.readline()
                assert reader.index.ids() == ids
                again = reader.index.search(QUERY, 99)
                assert again[0] == found
                np.testing.assert_array_equal(again[1], scores)
            assert reader.ids() == ids
            with pytest.raises(UnknownIdError):
                reader.get("never")
            assert reader.refresh()
            assert reader.ids() != ids
            assert_caught_up(reader)
            assert not reader.refresh()
    process.kill()
    process.communicate()


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip])
def test_what_is_damaged_is_indexed_again(
    tmp_path: Path, tiny_model: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    made = create(tmp_path / "made", tiny_model, kind, NAMES[:4], NAMES[4:8], NAMES[8:])
    with de.Engine.open(made) as engine:
        engine.remove(NAMES[5])
    left = [name for name in NAMES if name != NAMES[5]]
    files = sorted((made / "index" / "segment-00000002").iterdir())
    assert len(files) >= 7
    for file in [*files, made / "index" / "index.json"]:  # one segment, or all of it
        directory = tmp_path / file.name
        shutil.copytree(made, directory)
        damage(directory / file.relative_to(made))
        for readonly in (True, False):  # in memory; then saved
            with pytest.warns(DelfEngineWarning, match=f"{file.parent.name}.*{file.name}|index.*made again"):
                engine = de.Engine.open(directory, readonly=readonly)
            with engine:
                assert_caught_up(engine, left)
        with de.Engine.open(directory) as engine:
            assert_caught_up(engine, left)
            assert engine.check().whole


def test_an_index_of_a_later_version_is_no_damage(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4])
    values = disk.read_manifest(directory / "index")
    disk.write_manifest(directory / "index", values.pop("kind"), values.pop("version") + 8, values)
    with raises(FormatError, "version 9"):
        de.Engine.open(directory)


def test_a_long_way_to_follow_is_saved_on_the_way(
    tmp_path: Path, tiny_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4], NAMES[4:])
    (directory / "index" / "segment-00000001" / "id_rows.npy").unlink()
    monkeypatch.setattr(catching_up, "_BATCH", 1)
    monkeypatch.setattr(catching_up, "_SAVE", 2)
    whole, calls = FeatureStore.get_many, iter(range(100))

    def stop(self: FeatureStore, ids: list[str]) -> list[de.LocalFeatures]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, ids)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "get_many", stop)
        with pytest.warns(DelfEngineWarning, match="segment-00000001"), pytest.raises(KeyboardInterrupt):
            de.Engine.open(directory)
    manifest = disk.read_manifest(directory / "index")
    assert (sum(entry["images"] for entry in manifest["segments"]), manifest["mark"]) == (2, None)
    for readonly in (True, False):
        with de.Engine.open(directory, readonly=readonly) as engine:
            assert_caught_up(engine, NAMES)


def test_check_names_everything_that_is_damaged(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    directory = create(tmp_path / "e", tiny_model, kind, NAMES[:4], NAMES[4:])
    with de.Engine.open(directory) as engine:
        report = engine.check()
        assert report.whole
        assert report.images == NAMES
        assert len(report.files) == len(list((directory / "index").glob("*/*.npy"))) + (kind == "asmk")
        assert str(report).endswith("features of 12 images, 0 damaged")
    damaged = sorted((directory / "index" / "segment-00000001").iterdir())[:2]
    for file in damaged:
        flip(file)
    flip_stored(directory / "features", NAMES[3])
    if kind == "asmk":
        damaged.insert(0, directory / "codebook.safetensors")
        flip(damaged[0])
    report = check_directory(directory)
    assert not report.whole
    assert [path for path, _ in report.damaged_files] == [str(file) for file in damaged]
    assert [entry["id"] for entry in report.to_dict()["damaged_images"]] == [NAMES[3]]
    assert all(file.name in str(report) for file in damaged)
    (directory / "index" / "index.json").write_text("{")
    report = check_directory(directory)
    assert "index.json: the manifest cannot be read" in str(report)
    with raises(FormatError, str(tmp_path / "nothing")):
        check_directory(tmp_path / "nothing")


def test_damage_that_only_checksums_show(tmp_path: Path, tiny_model: Path) -> None:
    directory = create(tmp_path / "e", tiny_model, "asmk", NAMES[:4], NAMES[4:])
    flip(directory / "index" / "segment-00000001" / "id_text.npy")
    with de.Engine.open(directory, readonly=True, check=False) as engine:  # as where there is much to read
        assert engine.index.ids() != NAMES
    with pytest.warns(DelfEngineWarning, match="segment-00000001"):
        engine = de.Engine.open(directory, check=True)
    with engine:
        assert_caught_up(engine, NAMES)
